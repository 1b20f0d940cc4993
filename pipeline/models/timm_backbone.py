"""Networks of timm (a dependency of open_clip) without their classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor, nn

from pipeline.config import ModelConfig, nearest
from pipeline.errors import ModelError
from pipeline.models.backbone import Backbone
from pipeline.models.foreign import tower_weights
from pipeline.weights import load_weights


def load(config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None) -> Backbone:
    """Build the network of ``config``; raises ModelError for an unknown name, weights tag or unfitting weights."""
    name, tag = config.name, config.weight_tag
    if name is None:
        raise ModelError("model.architecture: only backbone 'open_clip' takes one; give model.name")
    if not timm.is_model(name):
        raise ModelError(f"model.name: timm has no '{name}'; {nearest(name, timm.list_models())}")
    if tag is not None:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
        if tag not in tags:
            raise ModelError(f"model.pretrained: '{name}' has no weights '{tag}'; {nearest(tag, tags)}")
        name = f"{name}.{tag}"
    try:
        network: Any = timm.create_model(name, num_classes=1, pretrained=pretrained and tag is not None)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"model.pretrained: the weights of '{name}' could not be downloaded ({type(error).__name__}); "
            "give the path of a local weight file instead"
        ) from error
    about = network.pretrained_cfg
    head = about["classifier"]
    if not isinstance(head, str) or not isinstance(linear := network.get_submodule(head), nn.Linear):
        raise ModelError(f"model.name: '{name}' has no single linear layer that a new head could replace; take another")
    network.set_submodule(head, nn.Identity())
    if local is not None:
        load_weights(network, tower_weights(local, head), source=str(config.pretrained))
    return Backbone(
        tower=network,
        feature_dim=linear.in_features,
        normalize_features=False,
        mean=config.mean or tuple(about["mean"]),
        std=config.std or tuple(about["std"]),
        architecture={"model_name": config.name},
        head_name=head,
    )
