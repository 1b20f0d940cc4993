"""Image towers of open_clip: by name and pretrained tag, by local weights, or from a small architecture.

Shipped with a served soup: the top level imports nothing of this package (see `BackboneModule`).
"""

from __future__ import annotations

import copy
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.config import ModelConfig
    from pipeline.models import Backbone, Classifier
    from pipeline.records import ModelDescription

REQUIREMENTS: tuple[str, ...] = ("open_clip_torch", "torchvision")

# CLIP cannot be built without a text tower; where the settings give none, this one is built and dropped.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}

_MOST_LAYERS = 1000  # ten times what the largest networks have; each takes its time to build

_IMAGE_KEYS = ("embed_dim", "vision_cfg", "quick_gelu")


def load(config: ModelConfig, *, pretrained: bool, local: Mapping[str, Tensor] | None) -> Backbone:
    """Build the CLIP model of ``config``, without ``pretrained`` its image tower alone.

    Raises ModelError for an unknown name or tag, a tag whose weights another architecture was trained with, and
    unfitting weights.
    """
    from pipeline.errors import ModelError
    from pipeline.models.backbone import Backbone

    architecture = _architecture(config)
    tag = config.weight_tag
    trained_with = _trained_with(config.name, tag, architecture) if tag is not None else {}
    image_tower = {key: value for key, value in architecture.items() if key in _IMAGE_KEYS} | {"text_cfg": _NO_TEXT}
    has_text = "text_cfg" in architecture
    if not pretrained:
        clip = _buildable(image_tower)
    elif config.name is not None:
        clip = _by_name(config.name, tag)
    else:
        clip = _buildable({"text_cfg": _NO_TEXT, **architecture})
    if local is not None:
        text_loaded = _load_local(clip, local, source=str(config.pretrained), has_text=has_text)
        if config.head == "zero_shot" and config.contrastive is None and not text_loaded:
            raise ModelError(
                f"model.head: 'zero_shot' needs a text tower, but {config.pretrained} holds an image tower alone; "
                "use 'linear_probe'"
            )
    return Backbone(
        tower=clip.get_submodule("visual"),
        feature_dim=int(architecture["embed_dim"]),
        normalize_features=True,
        constants={
            "mean": config.mean or tuple(trained_with.get("mean") or OPENAI_DATASET_MEAN),
            "std": config.std or tuple(trained_with.get("std") or OPENAI_DATASET_STD),
        },
        architecture=image_tower,
        clip=clip if has_text and pretrained else None,
        # Only theta0 reads captions, and some tokenizers have to be downloaded.
        tokenize=_tokenizer(config, architecture) if has_text and pretrained else None,
    )


def build(architecture: Mapping[str, Any], head_name: str | None) -> nn.Module:
    """The image tower of open_clip's ``CLIP`` of that architecture; the head follows it, so ``head_name`` is None."""
    return _clip(architecture).get_submodule("visual")


def export(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """A folder that open_clip loads: the soup's image tower, and a text tower that stands in for the one it needs."""
    from pipeline.models.export import write_tensors

    clip = _clip(description.architecture)
    clip.set_submodule("visual", model.tower)
    write_tensors(clip.state_dict(), folder / "open_clip_model.safetensors")
    write_tensors(model.head.state_dict(), folder / "head.safetensors")
    config = {
        "model_cfg": description.architecture,
        "preprocess_cfg": {
            "mean": description.inputs["mean"],
            "std": description.inputs["std"],
            "size": description.inputs["image_size"],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return (
        "model, _, preprocess = open_clip.create_model_and_transforms('local-dir:{folder}')\n"
        "head = safetensors.torch.load_file('{folder}/head.safetensors')\n"
        "logits = model.encode_image(images, normalize=True) @ head['weight'].T + head['bias']"
    )


def _clip(architecture: Mapping[str, Any]) -> nn.Module:
    clip: nn.Module = open_clip.model.CLIP(**copy.deepcopy(dict(architecture)))  # which changes what it is given
    return clip


def _buildable(architecture: Mapping[str, Any]) -> nn.Module:
    """`_clip` of an architecture that a user wrote."""
    from pipeline.errors import ModelError, first_line

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with torch.device("meta"):  # where weights take no memory
            size = sum(weight.nbytes for weight in _clip(architecture).parameters())
        if size > memory:
            raise ValueError(f"its weights take {size / 2**30:.0f} GiB, and this machine has {memory / 2**30:.0f}")
        return _clip(architecture)
    except Exception as error:  # of any kind: open_clip does not check what it is given
        reason = first_line(error)
        raise ModelError(f"model.architecture: open_clip cannot build it: {reason}") from error


def _architecture(config: ModelConfig) -> dict[str, Any]:
    from pipeline.config import nearest
    from pipeline.errors import ModelError, quoted

    if config.architecture is not None:
        for name in ("vision_cfg", "text_cfg"):
            part = config.architecture.get(name)
            layers = part.get("layers", 0) if isinstance(part, dict) else 0
            for count in layers if isinstance(layers, list) else [layers]:
                if isinstance(count, int) and count > _MOST_LAYERS:
                    raise ModelError(
                        f"model.architecture: {name}.layers is {quoted(layers)}, allowed: up to {_MOST_LAYERS}"
                    )
        return copy.deepcopy(config.architecture)
    architecture = open_clip.get_model_config(config.name)
    if architecture is None:
        raise ModelError(
            f"model.name: open_clip has no {quoted(config.name)}; {nearest(str(config.name), open_clip.list_models())}"
        )
    return dict(architecture)


def _trained_with(name: str | None, tag: str, architecture: dict[str, Any]) -> dict[str, Any]:
    """What the weights of ``name`` with that tag were trained with."""
    from pipeline.config import nearest
    from pipeline.errors import ModelError, quoted

    if name is None:
        raise ModelError(
            f"model.pretrained: {quoted(tag)} is a tag, but model.architecture needs the path of a weight file"
        )
    if tag not in (tags := open_clip.list_pretrained_tags_by_model(name)):
        raise ModelError(f"model.pretrained: '{name}' has no weights {quoted(tag)}; {nearest(tag, tags)}")
    trained_with: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    quick = f"{name}-quickgelu"
    # open_clip only warns, and the accuracy of such a model is some points lower.
    if trained_with.get("quick_gelu") and not architecture.get("quick_gelu") and quick in open_clip.list_models():
        raise ModelError(f"model.name: the weights '{tag}' were trained with QuickGELU; use '{quick}'")
    return trained_with


def _by_name(name: str, tag: str | None) -> nn.Module:
    from pipeline.errors import ModelError, first_line

    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)  # open_clip reports on the root logger that it starts from random weights
    try:
        model: nn.Module = open_clip.create_model(name, pretrained=tag)
    except Exception as error:
        if tag is None:
            reason = first_line(error)
            raise ModelError(f"model.name: open_clip cannot build '{name}' here: {reason}") from error
        raise ModelError(
            f"model.pretrained: the weights '{tag}' of '{name}' could not be downloaded "
            f"({type(error).__name__}); give the path of a local weight file instead"
        ) from error
    finally:
        logging.disable(previous)
    return model


def _load_local(clip: nn.Module, state: Mapping[str, Tensor], *, source: str, has_text: bool) -> bool:
    """Load a whole CLIP model, or its image tower alone, as any of the files of `own_names` hold it.

    Of a whole one, a model that ``has_text`` not takes the tower. Returns whether the text tower was loaded too.
    """
    from pipeline.models.foreign import tower_weights
    from pipeline.weights import load_weights

    of_tower = [name.startswith("visual.") for name in state]
    if has_text and any(of_tower) and not all(of_tower):
        load_weights(clip, state, source=source)
        return True
    load_weights(clip.get_submodule("visual"), tower_weights(state), source=source)
    return False


def _tokenizer(config: ModelConfig, architecture: dict[str, Any]) -> Any:
    if config.name is not None:
        return open_clip.get_tokenizer(config.name)
    return open_clip.SimpleTokenizer(context_length=architecture["text_cfg"].get("context_length", 77))
