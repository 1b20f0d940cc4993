"""What a backbone is, and the table of them. A new one is a new file and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.weights import read_weights


@dataclass(frozen=True)
class Backbone:
    """An image tower and what is needed to train a classifier on it.

    ``tower`` maps normalised float images (B, 3, H, W) to features (B, ``feature_dim``). ``normalize_features`` tells
    that the head sees unit vectors, as in CLIP. ``architecture`` are the arguments with which the library builds the
    network without weights, ``head_name`` is the layer of that network in whose place the tower has none (None for
    CLIP). ``clip`` is the whole image-text model where there is one, and ``tokenize`` turns captions into its token ids
    (B, context).
    """

    tower: nn.Module
    feature_dim: int
    normalize_features: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    architecture: Mapping[str, Any]
    head_name: str | None = None
    clip: nn.Module | None = None
    tokenize: Callable[[Sequence[str]], Tensor] | None = None


BACKBONES = {
    "open_clip": "pipeline.models.open_clip_backbone",
    "timm": "pipeline.models.timm_backbone",
    "torchvision": "pipeline.models.torchvision_backbone",
}


def load_backbone(config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None = None) -> Backbone:
    """The backbone that ``config`` names, with its pretrained weights or, for loading others, without.

    ``local`` is what the weight file holds, where it was read already (on a node that has it). The library is imported
    here, so that a run without open_clip works where it is not installed. Raises ModelError.
    """
    if pretrained and local is None and config.weight_file is not None:
        local = read_weights(config.weight_file)
    load: Callable[..., Backbone] = importlib.import_module(BACKBONES[config.backbone]).load
    return load(config, pretrained=pretrained, local=local)
