"""The one module that every stage trains, mixes and evaluates: tower and classification head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.config import DataConfig, ModelConfig
from pipeline.data import KINDS, kind_of
from pipeline.models.backbone import Backbone, backbone_file, load_backbone
from pipeline.records import ModelDescription


class Classifier(nn.Module):
    """Examples to logits.

    Takes them as their kind encodes them, uint8 images (B, 3, H, W) say, or as `Kind.batch` leaves them, and prepares
    them itself, so that encoded examples can stay on the device as they are. The head has a bias; CLIP's
    ``logit_scale`` is folded into a zero-shot head and is no parameter. What ``prepare`` computes with is in no state
    dict and so never part of an ingredient.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.prepare = KINDS[backbone.kind].reader.prepare(backbone.constants)
        self.tower = backbone.tower
        self.head = nn.Linear(backbone.feature_dim, num_classes)
        self.normalize_features = backbone.normalize_features

    def features(self, inputs: Tensor) -> Tensor:
        """Features (B, feature_dim) that the head sees; unit vectors for CLIP towers."""
        features: Tensor = self.tower(self.prepare(inputs))
        return F.normalize(features, dim=-1) if self.normalize_features else features

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, classes)."""
        logits: Tensor = self.head(self.features(inputs))
        return logits


def build_classifier(config: ModelConfig, num_classes: int) -> Classifier:
    """The architecture with random weights, to load others into. Raises ModelError."""
    return Classifier(load_backbone(config, pretrained=False), num_classes)


def describe_model(
    config: ModelConfig, data: DataConfig, class_names: Sequence[str], backbone: Backbone | None = None
) -> ModelDescription:
    """What `build_classifier` builds, and what examples it takes; ``backbone`` is that of ``config``, if it is loaded.

    Raises ModelError.
    """
    backbone, kind = backbone or load_backbone(config, pretrained=False), kind_of(data)
    return ModelDescription(
        backbone=config.backbone,
        architecture=dict(backbone.architecture),
        head_name=backbone.head_name,
        network_module=backbone_file(config.backbone).stem,
        feature_dim=backbone.feature_dim,
        normalize_features=backbone.normalize_features,
        kind=backbone.kind,
        reader_module=Path(str(kind.reader.__file__)).stem,
        class_names=list(class_names),
        **kind.inputs(data),
        **backbone.constants,
    )
