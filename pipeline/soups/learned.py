"""Learned soup: softmax coefficients over all K ingredients at once (Eq. 2 of the MEHL-Soup paper; App. I)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pipeline.precision import Precision
from pipeline.soups.descent import Descent, DescentSettings, soup_gradient
from pipeline.soups.fit_data import Batch, Fit, FitData, Preprocess
from pipeline.soups.hyperplane import Hyperplane
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.layers import LAYER_KINDS, LayerKind
from pipeline.soups.measure import measured
from pipeline.soups.rebuild import soup_from_coefficients
from pipeline.soups.seeding import seeded
from pipeline.soups.settings import Check
from pipeline.soups.soup import Soup, costed, nonzero_rows
from pipeline.soups.workbench import borrowed

log = logging.getLogger("pipeline.soups")

_BETA = "beta"  # its name among the parameters that a loss is differentiated by
# From coefficients (K, L) and a batch to the loss, the coefficients' gradient (K, L) and, if it is learned, beta's.
Step = Callable[[Tensor, Batch], tuple[Tensor, Tensor, Tensor | None]]


@dataclass(frozen=True)
class LearnedSettings(DescentSettings):
    """Settings of learned and learned-plus, by default those of App. B; problems raise one ValueError.

    App. I of the model-soups paper: learning rate 0.1, constant, three epochs, ``temperature``.
    """

    learning_rate: float = 0.05
    """Of the logits of the coefficients."""

    weight_decay: float = 0.0
    """Decoupled decay of AdamW on these logits; plain sgd has none."""

    layers: LayerKind = "tensor"
    """What shares a coefficient: ``tensor`` (Learned-Soup+), ``module`` or ``model`` (Learned-Soup)."""

    temperature: bool = False
    """Learn a factor beta of the model's logits besides (App. I); the soup itself stays without it."""

    memory: Literal["corrected", "released"] = "corrected"
    """``released`` keeps a graph over all ingredients, each with a gradient, as the authors' code does."""

    def __post_init__(self) -> None:
        check = Check(self)
        self.check(check)
        check.one_of("layers", LAYER_KINDS)
        check.boolean("temperature")
        check.one_of("memory", ("corrected", "released"))
        if self.memory == "released" and self.micro_batch_size is not None:
            check.refuse("micro_batch_size", "none where memory is released")
        check.done()


def learned_soup(
    model: nn.Module,
    ingredients: IngredientSet,
    fit: Fit,
    settings: LearnedSettings | None = None,
    *,
    device: str = "cpu",
    seed: int = 0,
    preprocess: Preprocess | None = None,
    recalibrate: Callable[[nn.Module], None] | None = None,
    precision: Precision | None = None,
) -> Soup:
    """Learn positive coefficients that sum to one in each layer; all K ingredients are in memory at once.

    Eq. 2 of the MEHL-Soup paper, App. I of the model-soups paper. Same seed, same result.

    Args:
        model: The architecture; keeps its mode, flags and device, not its weights.
        ingredients: K fine-tuned models.
        fit: Images (n, ...) and labels (n,): two tensors, or a re-iterable of batches of both.
        settings: None for the defaults.
        device: Where to compute.
        seed: Of the order of the images.
        preprocess: Maps a batch of images on the device to the model's input.
        recalibrate: Sets the BatchNorm statistics of the model that it gets, once, on the mean of all ingredients. In
            the soup returned they are mixed like weights (`recalibrated` renews them, and METHODS does).
        precision: Arithmetic where the settings give none; None: bfloat16 on CUDA, else the model's own type.

    Returns:
        A soup whose ``history`` is the loss of every step.

    Raises:
        SoupError: Model, ingredients and fit images do not fit each other.
    """
    settings = settings or LearnedSettings()
    data = FitData(fit, device, preprocess)
    epoch = data.steps_per_epoch(settings.batch_size)
    descent = settings.descent(epoch, precision)
    history: list[float] = []
    with measured(device) as cost, borrowed(model, device):
        plane = Hyperplane(model, ingredients, settings.layers, recalibrate=recalibrate)
        coefficients = torch.full_like(plane.alpha, 1.0 / len(ingredients))
        if plane.mixed:
            plane.renew_statistics()
            raw = torch.zeros(plane.alpha.shape, dtype=plane.soup.dtype, device=plane.soup.device)
            beta = torch.ones((), dtype=raw.dtype, device=raw.device, requires_grad=True)
            make_step = _corrected_step if settings.memory == "corrected" else _released_step
            step = make_step(plane, beta if settings.temperature else None, descent)
            with closing(data.shuffled(settings.batch_size, seeded(seed))) as batches:
                history = _descend(raw, beta if settings.temperature else None, step, batches, descent)
            log.info("learned soup of %d models: loss %.4f -> %.4f", len(ingredients), history[0], history[-1])
            coefficients = raw.to("cpu", torch.float64).softmax(dim=0)
            del step  # the ingredients that it holds
        weights = soup_from_coefficients(ingredients, coefficients, plane.layers, device=device)
    soup = Soup(
        "learned" if settings.layers == "model" else "learned-plus",
        weights,
        coefficients,
        plane.layers,
        nonzero_rows(coefficients),
        history=tuple(history),
        epochs=len(history) / epoch,
    )
    return costed(soup, cost)


def _descend(raw: Tensor, beta: Tensor | None, step: Step, batches: Iterator[Batch], descent: Descent) -> list[float]:
    """Move ``raw`` (K, L), the logits of the coefficients, and ``beta`` (a number) in place; returns the losses."""
    optimizers = descent.new_optimizer(), descent.new_optimizer()
    losses = []
    for number, batch in zip(range(descent.steps), batches, strict=False):
        rate = descent.rate(number)
        weights = raw.softmax(dim=0)
        loss, gradient, beta_gradient = step(weights, batch)
        losses.append(loss)
        # `gradient` (K, L) is by the coefficients w. To the logits it goes through the softmax, whose Jacobian is
        # diag(w) - w w^T in each layer (column).
        optimizers[0].step(raw, weights * (gradient - (weights * gradient).sum(dim=0)), rate)
        if beta is not None and beta_gradient is not None:
            with torch.no_grad():
                optimizers[1].step(beta, beta_gradient, rate)
    return [float(loss) for loss in torch.stack(losses).cpu()]


def _corrected_step(plane: Hyperplane, beta: Tensor | None, descent: Descent) -> Step:
    """One graph of one model; the gradient of each coefficient is an inner product with its direction (Eq. 6)."""
    directions = plane.directions(range(len(plane.ingredients)))
    centre = plane.soup.clone()
    parameters: dict[str, Tensor] = dict(plane.parameters)
    if beta is not None:
        parameters[_BETA] = beta

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = plane.model(images)
        return logits if beta is None else beta * logits

    def step(weights: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        nonlocal descent
        # Coefficients sum to one, so mixing directions around the centre is mixing the ingredients.
        directions.mix(weights, centre, plane.soup)
        loss, gradients, descent = soup_gradient(forward, parameters, batch, descent)
        return loss, directions.project(gradients), gradients.get(_BETA)

    return step


def _released_step(plane: Hyperplane, beta: Tensor | None, descent: Descent) -> Step:
    """As in the authors' code: the graph runs over all K ingredients, and each of them is given a gradient."""
    like = plane.mixed
    thetas: list[Mapping[str, Tensor]] = [
        {name: plane.ingredients.tensor(k, name).to(slot, copy=True).requires_grad_() for name, slot in like.items()}
        for k in range(len(plane.ingredients))
    ]
    leaves = [tensor for theta in thetas for tensor in theta.values()]

    def step(weights: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        nonlocal descent
        coefficients = weights.detach().requires_grad_()

        def forward(images: Tensor) -> Tensor:
            mixed = {
                name: reduce(
                    torch.add, (coefficients[k, plane.layer_of[name]] * theta[name] for k, theta in enumerate(thetas))
                )
                for name in like
            }
            logits: Tensor = functional_call(plane.model, mixed, (images,))
            return logits if beta is None else beta * logits

        parameters = {"coefficients": coefficients, **({} if beta is None else {_BETA: beta})}
        of_ingredients = {str(position): leaf for position, leaf in enumerate(leaves)}  # their gradients are not used
        loss, gradients, descent = soup_gradient(forward, {**of_ingredients, **parameters}, batch, descent)
        return loss, gradients["coefficients"], gradients.get(_BETA)

    return step
