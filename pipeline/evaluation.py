"""Predictions, accuracies and BatchNorm recalibration of classifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Bounds the activations, not the images: accuracy does not depend on it.
EVALUATION_BATCH = 256


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
