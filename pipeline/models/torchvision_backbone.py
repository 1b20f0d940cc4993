"""Classification networks of torchvision without their last linear layer.

Shipped with a served soup: the top level imports nothing of this package (see `BackboneModule`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torchvision
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.config import ModelConfig
    from pipeline.models import Backbone, Classifier
    from pipeline.records import ModelDescription

REQUIREMENTS: tuple[str, ...] = ("torchvision",)

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None) -> Backbone:
    """Build the network of ``config``; raises ModelError for an unknown name, weights tag or unfitting weights."""
    from pipeline.config import nearest
    from pipeline.errors import ModelError, quoted
    from pipeline.models.backbone import Backbone
    from pipeline.models.foreign import tower_weights
    from pipeline.weights import load_weights

    if config.name is None:
        raise ModelError("model.architecture: only backbone 'open_clip' takes one; give model.name")
    if config.name not in (names := torchvision.models.list_models(module=torchvision.models)):
        raise ModelError(f"model.name: torchvision has no {quoted(config.name)}; {nearest(config.name, names)}")
    weights = None
    if (tag := config.weight_tag) is not None:
        available = torchvision.models.get_model_weights(config.name)
        if tag not in available.__members__:
            tags = list(available.__members__)
            hint = nearest(tag, tags)
            raise ModelError(f"model.pretrained: '{config.name}' has no weights {quoted(tag)}; {hint}")
        weights = available[tag]
    try:
        network = torchvision.models.get_model(config.name, weights=weights if pretrained else None)
    except OSError as error:
        raise ModelError(
            f"model.pretrained: the weights '{config.pretrained}' of '{config.name}' could not be downloaded "
            f"({error}); give the path of a local weight file instead"
        ) from error
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ModelError(f"model.name: '{config.name}' has no linear layer that a new head could replace; take another")
    last = linear[-1]
    feature_dim = network.get_submodule(last).in_features
    network.set_submodule(last, nn.Identity())
    if local is not None:
        load_weights(network, tower_weights(local, last), source=str(config.pretrained))
    transforms = weights.transforms() if weights is not None else None
    return Backbone(
        tower=network,
        feature_dim=int(feature_dim),
        normalize_features=False,
        constants={
            "mean": config.mean or tuple(transforms.mean if transforms else _IMAGENET_MEAN),
            "std": config.std or tuple(transforms.std if transforms else _IMAGENET_STD),
        },
        architecture={"name": config.name},
        head_name=last,
    )


def build(architecture: Mapping[str, Any], head_name: str | None) -> nn.Module:
    """The network that ``architecture`` names to torchvision, with nothing in place of the layer ``head_name``."""
    network: nn.Module = torchvision.models.get_model(**architecture)
    network.set_submodule(str(head_name), nn.Identity())
    return network


def export(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """The state dict of torchvision's network for these classes."""
    from pipeline.models.export import state_with_head, write_tensors

    write_tensors(state_with_head(model, description), folder / "model.safetensors")
    name, count = description.architecture["name"], len(description.class_names)
    return (
        f"model = torchvision.models.get_model('{name}', num_classes={count})\n"
        "model.load_state_dict(safetensors.torch.load_file('{folder}/model.safetensors'))"
    )
