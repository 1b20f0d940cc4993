"""Predictions, accuracies and BatchNorm recalibration of classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.data import Splits
from pipeline.soups import Soup, SoupInputs, copy_into_model

# BatchNorm statistics settle within a few thousand images; the whole training set would cost an epoch for every soup.
RECALIBRATION_IMAGES = 4096
# Bounds the activations, not the images: accuracy does not depend on it.
EVALUATION_BATCH = 128


@torch.inference_mode()
def predict(model: nn.Module, images: Tensor, device: str) -> Tensor:
    """Float32 logits (N, classes) on the CPU of ``images`` (N, 3, H, W), with ``model`` on ``device`` in eval mode."""
    model.eval()
    if not len(images):  # few models take an empty batch; a blank image tells the number of classes
        return predict(model, images.new_zeros(1, *images.shape[1:]), device)[:0]
    return torch.cat([model(batch.to(device)).float().cpu() for batch in images.split(EVALUATION_BATCH)])


def accuracy(logits: Tensor, labels: Tensor) -> float | None:
    """Share of ``labels`` (N,) that ``logits`` (N, classes) predict; None for no images."""
    return (logits.argmax(1) == labels).double().mean().item() if len(labels) else None


def split_accuracies(
    model: nn.Module, splits: Splits, device: str, names: Sequence[str] = ("fit", "select", "test")
) -> dict[str, float | None]:
    """Accuracy of ``model``, which is moved to ``device``, on the named splits; None for an empty one."""
    model.to(device)
    accuracies: dict[str, float | None] = {}
    for name in names:
        images, labels = getattr(splits, name).tensors()
        accuracies[name] = accuracy(predict(model, images, device), labels)
    return accuracies


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, images: Tensor, device: str) -> None:
    """Replace the running statistics of every BatchNorm layer by the mean over batches of (training) ``images``.

    The statistics of a weight average are not the average of the statistics (Izmailov et al., 2018). Does nothing for a
    model without BatchNorm. The model is left in eval mode; dropout stays off.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    layers = [layer for layer in layers if layer.track_running_stats]
    model.eval()
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    for batch in images.split(EVALUATION_BATCH):
        if len(batch) > 1:
            model(batch.to(device))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def recalibration(splits: Splits, device: str) -> Callable[[nn.Module], None]:
    """`recalibrate_batchnorm` on some training images, as the soup library takes it."""
    images = splits.train.sample(RECALIBRATION_IMAGES)
    return lambda model: recalibrate_batchnorm(model, images, device)


@dataclass(frozen=True)
class Evaluated:
    """Labels and predicted classes of a split's images in order; ``accuracy`` is None for an empty split."""

    labels: list[int]
    predictions: list[int]
    accuracy: float | None


def evaluate_soup(soup: Soup, inputs: SoupInputs, splits: Splits) -> dict[str, Evaluated]:
    """A soup on `fit`, `select`, `test` and the shifts.

    Of an ensemble the logits of its members are weighted by its coefficients.
    """
    if soup.state_dict is not None:
        members = [(soup.state_dict, 1.0)]
    else:
        members = [(inputs.ingredients.state_dict(k), float(soup.coefficients[k, 0])) for k in soup.selected]
    # One model in memory at a time: each member goes over all sets, and logits[name] (N, classes) sums up as it goes.
    tensors = {name: images.tensors() for name, images in splits.measured().items()}
    logits: dict[str, Tensor] = {}
    for state, weight in members:
        copy_into_model(inputs.model, state)
        for name, (images, _) in tensors.items():
            logits[name] = logits.get(name, 0) + weight * predict(inputs.model, images, inputs.device)
    return {
        name: Evaluated(
            labels=labels.tolist(),
            predictions=logits[name].argmax(1).tolist() if len(labels) else [],
            accuracy=accuracy(logits[name], labels),
        )
        for name, (_, labels) in tensors.items()
    }
