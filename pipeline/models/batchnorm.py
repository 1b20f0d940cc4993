"""Renewing the statistics of BatchNorm layers, for weights that they were not gathered with."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.precision import Precision, arithmetic
from pipeline.soups.streaming import on_device

# Statistics settle within a few thousand images; the whole training set would cost an epoch for every soup.
RECALIBRATION_IMAGES = 4096
_BATCH = 128


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, images: Tensor, device: str, precision: Precision | None = None) -> None:
    """Replace the running statistics of every BatchNorm layer by the mean over batches of (training) ``images``.

    The statistics of a weight average are not the average of the statistics (Izmailov et al., 2018), and those of other
    images are not what fine-tuning computes with. ``precision`` is that of the forward passes. Does nothing for a model
    without BatchNorm, or for fewer than two images. The model is left in eval mode; dropout stays off.
    """
    layers = _batchnorm_layers(model)
    model.eval()
    if not layers or len(images) < 2:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
        layer.train()
    # Of nearly equal size: all batches weigh the same, and the last one might be of a few images.
    with arithmetic(device, precision):
        for batch in on_device(images.tensor_split(math.ceil(len(images) / _BATCH)), device):
            model(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def has_batchnorm(model: nn.Module) -> bool:
    """Whether the model has statistics that `recalibrate_batchnorm` renews."""
    return bool(_batchnorm_layers(model))


def _batchnorm_layers(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return [layer for layer in layers if layer.track_running_stats]
