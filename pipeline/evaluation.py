"""Predictions and scores of classifiers, and their BatchNorm statistics as soups need them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.data import Splits
from pipeline.metrics import deciding
from pipeline.models import RECALIBRATION_IMAGES, has_batchnorm, recalibrate_batchnorm
from pipeline.precision import Precision, arithmetic
from pipeline.soups import Soup, SoupInputs, copy_into_model
from pipeline.soups.streaming import on_device

# Bounds the activations, not the images: accuracy does not depend on it.
EVALUATION_BATCH = 128


@torch.inference_mode()
def predict(
    model: nn.Module,
    examples: Tensor,
    device: str,
    precision: Precision | None = None,
    lengths: npt.NDArray[np.int64] | None = None,
) -> Tensor:
    """Float32 logits (N, classes) on the CPU of ``examples`` (N, ...), with ``model`` on ``device`` in eval mode.

    They are computed in ``precision``; None: see `pipeline.precision.resolved`. Where the ``lengths`` (N,) of examples
    are given (see `ExampleSet`), the model gets them by length and without the padding that is behind all of a batch.
    """
    model.eval()
    if not len(examples):  # few models take an empty batch; a blank example tells the number of classes
        return predict(model, examples.new_zeros(1, *examples.shape[1:]), device, precision)[:0]
    order, batches = torch.arange(len(examples)), iter(examples.split(EVALUATION_BATCH))
    if lengths is not None:
        order = torch.from_numpy(np.argsort(lengths, kind="stable"))
        batches = (examples[index, : lengths[int(index[-1])]] for index in order.split(EVALUATION_BATCH))
    with arithmetic(device, precision):
        logits = torch.cat([model(batch).float() for batch in on_device(batches, device)]).cpu()
    return torch.empty_like(logits).index_copy_(0, order, logits)


def accuracy(logits: Tensor, labels: Tensor) -> float | None:
    """Share of ``labels`` (N,) that ``logits`` (N, classes) predict; None for no images."""
    return (logits.argmax(1) == labels).double().mean().item() if len(labels) else None


def split_figures(
    model: nn.Module, splits: Splits, device: str, names: Sequence[str] = ("fit", "select", "test")
) -> dict[str, Any]:
    """The `figures` of ``model``, which is moved to ``device``, on the named splits or shifts."""
    model.to(device)
    evaluated: dict[str, Evaluated] = {}
    for name in names:
        examples = splits.measured()[name]
        inputs, labels = examples.tensors()
        logits = predict(model, inputs, device, splits.precision, examples.lengths)
        evaluated[name] = evaluate(logits, labels, splits.metric)
    return figures(evaluated)


def recalibration(model: nn.Module, splits: Splits, device: str) -> Callable[[nn.Module], None] | None:
    """`recalibrate_batchnorm` on some training images, as the soup library takes it; None where nothing is renewed."""
    if not has_batchnorm(model):
        return None
    images = splits.train.sample(RECALIBRATION_IMAGES)
    return lambda loaded: recalibrate_batchnorm(loaded, images, device, splits.precision)


@dataclass(frozen=True)
class Evaluated:
    """Labels and predicted classes of a split's images in order, and how good these are; None for an empty split.

    ``score`` is None too where accuracy decides.
    """

    labels: list[int]
    predictions: list[int]
    accuracy: float | None
    score: float | None


def evaluate(logits: Tensor, labels: Tensor, metric: str) -> Evaluated:
    """What ``logits`` (N, classes) predict for images with these ``labels`` (N,), measured by the ``metric`` too."""
    predictions, other = logits.argmax(1), deciding(metric) if len(labels) else None
    return Evaluated(
        labels=labels.tolist(),
        predictions=predictions.tolist(),
        accuracy=accuracy(logits, labels),
        score=None if other is None else other.score(labels.numpy(), predictions.numpy(), logits.shape[1]),
    )


def figures(evaluated: Mapping[str, Evaluated]) -> dict[str, Any]:
    """What was measured by split, under the names that it has in records: `val` is `fit`.

    ``<split>_accuracy`` is None for an empty split; ``<split>_score`` is there where another metric decides.
    """
    columns = {"val" if name == "fit" else name: split for name, split in evaluated.items()}
    return {f"{name}_accuracy": split.accuracy for name, split in columns.items()} | {
        f"{name}_score": split.score for name, split in columns.items() if split.score is not None
    }


def evaluate_soup(soup: Soup, inputs: SoupInputs, splits: Splits) -> dict[str, Evaluated]:
    """A soup on `fit`, `select`, `test` and the shifts.

    Of an ensemble the logits of its members are weighted by its coefficients.
    """
    if soup.state_dict is not None:
        members = [(soup.state_dict, 1.0)]
    else:
        members = [(inputs.ingredients.state_dict(k), float(soup.coefficients[k, 0])) for k in soup.selected]
    # One model in memory at a time: each member goes over all sets, and logits[name] (N, classes) sums up as it goes.
    sets = splits.measured()
    logits: dict[str, Tensor] = {}
    for state, weight in members:
        copy_into_model(inputs.model, state)
        for name, examples in sets.items():
            tensor, _ = examples.tensors()
            member = predict(inputs.model, tensor, inputs.device, splits.precision, examples.lengths)
            logits[name] = logits.get(name, 0) + weight * member
    return {name: evaluate(logits[name], examples.tensors()[1], splits.metric) for name, examples in sets.items()}
