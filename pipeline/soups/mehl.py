"""MEHL-Soup and MEHL-Soup+: coefficients on a hyperplane, learned a block of models at a time (Algorithm 1)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from pipeline.soups.alphas import Descent, Optimizer, Precision, Schedule
from pipeline.soups.fit_data import Fit, FitData, Preprocess
from pipeline.soups.hyperplane import Hyperplane
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.layers import LAYER_KINDS, LayerKind
from pipeline.soups.measure import measured
from pipeline.soups.rebuild import soup_from_coefficients
from pipeline.soups.settings import Check
from pipeline.soups.soup import Soup, costed, nonzero_rows
from pipeline.soups.workbench import borrowed

log = logging.getLogger("pipeline.soups")

_BLOCKS_STREAM, _DATA_STREAM = 0, 1
_EPOCHS = 5  # App. B of the paper: 1,000 iterations at batch 128 are five passes over its 26,000 images


@dataclass(frozen=True)
class MehlSettings:
    """Settings of mehl, mehl-plus, hl and hl-plus; problems raise one ValueError."""

    block_size: int | None = 18
    """Models in memory at a time, b (18 for ViT-B/32 in the paper); none: all K, which is HL-Soup."""

    outer_iterations: int | None = None
    """Blocks that are trained, T; none: ceil(K / b), every model once."""

    inner_iterations: int | None = None
    """Optimisation steps in a block, J; none: five passes over the fit images."""

    batch_size: int = 128
    """Images in a step; may be all of them. Streamed batches keep their own size."""

    micro_batch_size: int | None = None
    """Images in a forward pass, where a whole batch does not fit; gradients are accumulated."""

    precision: Precision | None = None
    """Arithmetic of forward and backward; none: bfloat16 autocast on CUDA, else the model's own type."""

    learning_rate: float = 0.01
    """Of the coefficients."""

    weight_decay: float = 0.1
    """Decoupled decay of AdamW towards alpha = 0, the uniform soup; plain sgd has none."""

    optimizer: Optimizer = "adamw"
    """``adamw`` or ``sgd``; starts anew in every block."""

    schedule: Schedule = "cosine"
    """``cosine`` to zero or ``constant``, within every block."""

    warmup: float = 0.0
    """Part of a block's steps over which the learning rate rises; the released code has 0.2."""

    layers: LayerKind = "tensor"
    """What shares a coefficient: ``tensor`` (MEHL-Soup+), ``module`` or ``model`` (MEHL-Soup)."""

    decentralize: bool = True
    """Directions from the mean of all K (Eq. 3); without, plain sums that start at 1/K and may leave one (App. D)."""

    direction_scale: Literal["none", "unit"] = "none"
    """``unit`` divides each direction by its norm within each layer, as the released code does."""

    def __post_init__(self) -> None:
        check = Check(self)
        for field in ("block_size", "outer_iterations", "inner_iterations", "micro_batch_size"):
            check.integer(field, at_least=1, also=(None,))
        check.integer("batch_size", at_least=1)
        check.one_of("precision", (None, "float32", "bfloat16"))
        check.number("learning_rate", low=0, open_low=True)
        check.number("weight_decay", low=0)
        check.one_of("optimizer", ("adamw", "sgd"))
        check.one_of("schedule", ("cosine", "constant"))
        check.number("warmup", low=0, high=1)
        check.one_of("layers", LAYER_KINDS)
        check.boolean("decentralize")
        check.one_of("direction_scale", ("none", "unit"))
        check.done()


def mehl_soup(
    model: nn.Module,
    ingredients: IngredientSet,
    fit: Fit,
    settings: MehlSettings | None = None,
    *,
    device: str = "cpu",
    seed: int = 0,
    preprocess: Preprocess | None = None,
    recalibrate: Callable[[nn.Module], None] | None = None,
) -> Soup:
    """Learn one coefficient per ingredient and layer by block coordinate descent on the fit images.

    ``recalibrate`` sets the BatchNorm statistics of the soup at the start of every block; in the soup returned they are
    mixed like weights (`recalibrated` renews them, and METHODS does). Coefficients refer to the ingredients (Eq. 4) and
    sum to one in each layer; weights are rebuilt from them. ``history`` is the loss of every step. The model keeps its
    mode and flags, not its weights. Same seed, same result. Raises SoupError when model and ingredients do not fit.
    """
    settings = settings or MehlSettings()
    count = len(ingredients)
    data = FitData(fit, device, preprocess)
    with measured(device) as cost, borrowed(model, device):
        block_size = min(settings.block_size or count, count)
        blocks = draw_blocks(count, block_size, settings.outer_iterations, seed)
        epoch = data.steps_per_epoch(settings.batch_size)
        descent = _descent(settings, epoch)
        history: list[float] = []
        with Hyperplane(model, ingredients, settings.layers, centred=settings.decentralize) as plane:
            for t, block in enumerate(blocks if plane.mixed else ()):
                batches = data.shuffled(settings.batch_size, seeded(seed, _DATA_STREAM, t))
                losses = plane.train_block(
                    block, batches, descent, settings.direction_scale == "unit", recalibrate, device
                )
                history += losses
                log.info(
                    "block %d of %d (%d models): loss %.4f -> %.4f",
                    t + 1,
                    len(blocks),
                    len(block),
                    losses[0],
                    losses[-1],
                )
            coefficients = plane.coefficients()
            layers = plane.layers
        weights = soup_from_coefficients(ingredients, coefficients, layers)
    soup = Soup(
        "mehl" if settings.layers == "model" else "mehl-plus",
        weights,
        coefficients,
        layers,
        nonzero_rows(coefficients),
        blocks=blocks,
        history=tuple(history),
        epochs=len(history) / epoch,
    )
    return costed(soup, cost)


def draw_blocks(count: int, size: int, outer_iterations: int | None, seed: int) -> tuple[tuple[int, ...], ...]:
    """T blocks of at most ``size`` models: seeded permutations of all, cut into pieces, anew for every pass."""
    generator = seeded(seed, _BLOCKS_STREAM)
    total = math.ceil(count / size) if outer_iterations is None else outer_iterations
    blocks: list[tuple[int, ...]] = []
    while len(blocks) < total:
        order = torch.randperm(count, generator=generator).tolist()
        blocks += [tuple(order[start : start + size]) for start in range(0, count, size)]
    return tuple(blocks[:total])


def seeded(seed: int, *stream: int) -> torch.Generator:
    """A generator of its own for each purpose, so that no draw of one shifts those of another."""
    mixed = np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))


def _descent(settings: MehlSettings, epoch: int) -> Descent:
    return Descent(
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        schedule=settings.schedule,
        warmup=settings.warmup,
        steps=settings.inner_iterations or _EPOCHS * epoch,
        micro_batch_size=settings.micro_batch_size,
        precision=settings.precision,
    )
