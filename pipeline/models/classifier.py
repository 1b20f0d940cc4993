"""The one module that every stage trains, mixes and evaluates: image tower and classification head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import ModelConfig
from pipeline.models.backbone import Backbone, backbone_file, load_backbone
from pipeline.records import ModelDescription


class Classifier(nn.Module):
    """Images to logits.

    Takes uint8 images (B, 3, H, W), or float ones in [0, 1], and normalises them itself, so that prepared images can
    stay on the device as they are. The head has a bias; CLIP's ``logit_scale`` is folded into a zero-shot head and is
    no parameter. The constants of the normalisation are in no state dict and so never part of an ingredient.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.tower = backbone.tower
        self.head = nn.Linear(backbone.feature_dim, num_classes)
        self.normalize_features = backbone.normalize_features
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """Features (B, feature_dim) that the head sees; unit vectors for CLIP towers."""
        pixels = images.to(self.mean.dtype)
        if not images.is_floating_point():
            pixels = pixels / 255
        features: Tensor = self.tower((pixels - self.mean) / self.std)
        return F.normalize(features, dim=-1) if self.normalize_features else features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def build_classifier(config: ModelConfig, num_classes: int) -> Classifier:
    """The architecture with random weights, to load others into. Raises ModelError."""
    return Classifier(load_backbone(config, pretrained=False), num_classes)


def describe_model(config: ModelConfig, image_size: int, class_names: Sequence[str]) -> ModelDescription:
    """What `build_classifier` builds, and what images it takes. Raises ModelError."""
    backbone = load_backbone(config, pretrained=False)
    return ModelDescription(
        backbone=config.backbone,
        architecture=dict(backbone.architecture),
        head_name=backbone.head_name,
        network_module=backbone_file(config.backbone).stem,
        feature_dim=backbone.feature_dim,
        normalize_features=backbone.normalize_features,
        image_size=image_size,
        mean=backbone.mean,
        std=backbone.std,
        class_names=list(class_names),
    )
