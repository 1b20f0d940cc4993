"""What every method takes and what it gives back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pipeline.metrics import Metric
from pipeline.precision import Precision
from pipeline.soups.fit_data import SCORING_BATCH, Fit, Preprocess
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.measure import Cost


@dataclass(frozen=True)
class SoupInputs:
    """Everything that a method may draw on.

    Attributes:
        model: The architecture: methods load weights into it and give back its mode, flags and device, but not its
            weights.
        ingredients: K fine-tuned models.
        fit: The validation images (n, ...) and labels (n,) to learn from: two tensors, or a re-iterable of batches.
        accuracies: Those of the K ingredients on ``fit``, if known; they save K passes. With ``metric`` scores by that.
        device: Where to compute.
        seed: Of everything that is drawn.
        recalibrate: Sets BatchNorm statistics on the loaded model, before every score and for each returned soup.
        theta0: The weights that all ingredients started from, by name.
        preprocess: Maps a batch of images on the device to the model's input.
        checkpoint: A file in which a method that takes long keeps its progress.
        score_batch_size: Images in a forward pass that only scores.
        precision: Arithmetic of forward and backward passes, unless the settings of a method have another to learn in;
            None: bfloat16 on CUDA, else the model's own type.
        metric: What decides which of two soups is better, on ``fit``; None: accuracy.
        settings_of: Settings of other methods by name, where they are not the defaults: a method that starts from the
            soup of another (`Method.parts`) builds that with them.
    """

    model: nn.Module
    ingredients: IngredientSet
    fit: Fit
    accuracies: Sequence[float] | None = None
    device: str = "cpu"
    seed: int = 0
    recalibrate: Callable[[nn.Module], None] | None = None
    theta0: Mapping[str, Tensor] | None = None
    preprocess: Preprocess | None = None
    checkpoint: Path | None = None
    score_batch_size: int = SCORING_BATCH
    precision: Precision | None = None
    metric: Metric | None = None
    settings_of: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Soup:
    """A finished soup, or the members of an ensemble.

    Attributes:
        method: The name in METHODS.
        state_dict: The weights on the CPU; None for ensembles.
        coefficients: (K, L) in float64. Applied to the ingredients by `soup_from_coefficients` they give ``state_dict``
            bit for bit (before BatchNorm recalibration); those of an ensemble weigh logits.
        layers: The L names of the columns.
        selected: The ingredients with a coefficient other than zero, ascending.
        blocks: The models of each outer iteration; empty for methods without blocks.
        history: The loss of every step, or the accuracy of every accepted soup.
        seconds: Wall clock time; of all attempts, where it went on from a checkpoint.
        epochs: Passes over the fit images, scoring included.
        epochs_of_trials: Passes that it needs too and that others had made: accuracies of ingredients that were known.
        peak_memory_bytes: The largest of all attempts.
        peak_memory_kind: ``cuda`` (the allocator's peak) or ``anon`` (the peak of RssAnon over that at the start).
        peak_reserved_bytes: On CUDA the peak of what the allocator held, fragments included; None elsewhere.
        own_statistics: Whether it is an ingredient whose own BatchNorm statistics are to stay; else they are renewed.
    """

    method: str
    state_dict: dict[str, Tensor] | None
    coefficients: Tensor
    layers: tuple[str, ...]
    selected: tuple[int, ...]
    blocks: tuple[tuple[int, ...], ...] = ()
    history: tuple[float, ...] = ()
    seconds: float = 0.0
    epochs: float = 0.0
    peak_memory_bytes: int = 0
    peak_memory_kind: Literal["cuda", "anon"] = "anon"
    peak_reserved_bytes: int | None = None
    epochs_of_trials: int = 0
    own_statistics: bool = False


Builder: TypeAlias = Callable[[SoupInputs, Any], Soup]


def calling(function: Callable[..., Soup]) -> Builder:
    """A builder that calls ``function`` with what its signature asks for.

    Each parameter that has the name of a field of `SoupInputs` gets that field, a parameter ``settings`` the settings;
    all others keep their defaults.

    Args:
        function: Makes the soup, such as `mehl_soup`.

    Returns:
        What a `Method` takes as ``build``.
    """
    parameters = inspect.signature(function).parameters
    wanted = [field.name for field in fields(SoupInputs) if field.name in parameters]

    def build(inputs: SoupInputs, settings: Any) -> Soup:
        arguments = {name: getattr(inputs, name) for name in wanted}
        if "settings" in parameters:
            arguments["settings"] = settings
        return function(**arguments)

    return build


def costed(soup: Soup, cost: Cost) -> Soup:
    """The soup with the seconds and the peak memory that a finished `measured` block found."""
    return replace(
        soup,
        seconds=cost.seconds,
        peak_memory_bytes=cost.peak_memory_bytes,
        peak_memory_kind=cost.peak_memory_kind,
        peak_reserved_bytes=cost.peak_reserved_bytes,
    )


def nonzero_rows(coefficients: Tensor) -> tuple[int, ...]:
    """Ingredients with any coefficient other than zero; all of them where nothing is mixed (L = 0).

    Args:
        coefficients: (K, L).
    """
    if coefficients.shape[1] == 0:
        return tuple(range(coefficients.shape[0]))
    return tuple(torch.nonzero((coefficients != 0).any(dim=1)).flatten().tolist())
