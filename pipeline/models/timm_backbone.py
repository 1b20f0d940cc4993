"""Networks of timm (a dependency of open_clip) without their classifier.

Shipped with a served soup: the top level imports nothing of this package (see `BackboneModule`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.config import ModelConfig
    from pipeline.models import Backbone, Classifier
    from pipeline.records import ModelDescription

REQUIREMENTS: tuple[str, ...] = ("timm", "torchvision")


def load(config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None) -> Backbone:
    """Build the network of ``config``; raises ModelError for an unknown name, weights tag or unfitting weights."""
    from pipeline.config import nearest
    from pipeline.errors import ModelError, quoted
    from pipeline.models.backbone import Backbone
    from pipeline.models.foreign import tower_weights
    from pipeline.weights import load_weights

    name, tag = config.name, config.weight_tag
    if name is None:
        raise ModelError("model.architecture: only backbone 'open_clip' takes one; give model.name")
    if not timm.is_model(name):
        raise ModelError(f"model.name: timm has no {quoted(name)}; {nearest(name, timm.list_models())}")
    if tag is not None:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name}.*")]
        if tag not in tags:
            raise ModelError(f"model.pretrained: '{name}' has no weights {quoted(tag)}; {nearest(tag, tags)}")
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
        constants={
            "mean": config.mean or tuple(about["mean"]),
            "std": config.std or tuple(about["std"]),
        },
        architecture={"model_name": config.name},
        head_name=head,
    )


def build(architecture: Mapping[str, Any], head_name: str | None) -> nn.Module:
    """The network that ``architecture`` names to timm, with nothing in place of the layer ``head_name``."""
    network: nn.Module = timm.create_model(**architecture, num_classes=1)
    network.set_submodule(str(head_name), nn.Identity())
    return network


def export(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """A folder as timm and the Hugging Face hub know them."""
    from pipeline.models.export import state_with_head, write_tensors

    write_tensors(state_with_head(model, description), folder / "model.safetensors")
    about = vars(model.tower)["pretrained_cfg"]
    size = description.inputs["image_size"]
    config = {
        "architecture": description.architecture["model_name"],
        "num_classes": len(description.class_names),
        "label_names": description.class_names,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": about.get("fixed_input_size", False),
            "mean": description.inputs["mean"],
            "std": description.inputs["std"],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "classifier": description.head_name,
            "num_classes": len(description.class_names),
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return "model = timm.create_model('local-dir:{folder}', pretrained=True)"
