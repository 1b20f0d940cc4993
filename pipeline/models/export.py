"""Weights as the library of their network loads them back, and as a program that runs without any."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.classifier import Classifier
from pipeline.records import ModelDescription
from pipeline.weights import save_weights


def export_weights(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """Write safetensors and configuration for the library of ``description``; returns the code that loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "description.json").write_text(description.model_dump_json(indent=1), encoding="utf-8")
    return _EXPORT[description.backbone](model, description, folder)


def export_program(model: Classifier, description: ModelDescription, path: Path) -> None:
    """Write ``model`` by torch.export: float images (B, 3, H, W) in [0, 1] to logits, for any B.

    Raises ModelError for a network that torch.export cannot trace.
    """
    size = description.image_size
    try:
        # torch takes a batch of one for a constant.
        program = torch.export.export(
            model.eval(), (torch.zeros(2, 3, size, size),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    except Exception as error:  # of many kinds
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{path}: torch.export cannot trace the network ({reason}); export without --program"
        ) from error
    torch.export.save(program, path)


def _open_clip(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """A folder that open_clip loads: the soup's image tower, and a text tower that stands in for the one it needs."""
    import open_clip

    clip: nn.Module = open_clip.model.CLIP(**copy.deepcopy(description.architecture))
    clip.set_submodule("visual", model.tower)
    _save(clip.state_dict(), folder / "open_clip_model.safetensors")
    _save(model.head.state_dict(), folder / "head.safetensors")
    config = {
        "model_cfg": description.architecture,
        "preprocess_cfg": {
            "mean": description.mean,
            "std": description.std,
            "size": description.image_size,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return (
        f"model, _, preprocess = open_clip.create_model_and_transforms('local-dir:{folder}')\n"
        f"head = safetensors.torch.load_file('{folder / 'head.safetensors'}')\n"
        "logits = model.encode_image(images, normalize=True) @ head['weight'].T + head['bias']"
    )


def _torchvision(model: Classifier, description: ModelDescription, folder: Path) -> str:
    _save(_with_head(model, description), folder / "model.safetensors")
    name = description.architecture["name"]
    return (
        f"model = torchvision.models.get_model('{name}', num_classes={len(description.class_names)})\n"
        f"model.load_state_dict(safetensors.torch.load_file('{folder / 'model.safetensors'}'))"
    )


def _timm(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """A folder as timm and the Hugging Face hub know them."""
    _save(_with_head(model, description), folder / "model.safetensors")
    about = vars(model.tower)["pretrained_cfg"]
    config = {
        "architecture": description.architecture["model_name"],
        "num_classes": len(description.class_names),
        "label_names": description.class_names,
        "pretrained_cfg": {
            "input_size": [3, description.image_size, description.image_size],
            "fixed_input_size": about.get("fixed_input_size", False),
            "mean": description.mean,
            "std": description.std,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "classifier": description.head_name,
            "num_classes": len(description.class_names),
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return f"model = timm.create_model('local-dir:{folder}', pretrained=True)"


def _with_head(model: Classifier, description: ModelDescription) -> dict[str, Tensor]:
    head = {f"{description.head_name}.{name}": value for name, value in model.head.state_dict().items()}
    return {**model.tower.state_dict(), **head}


def _save(state: Mapping[str, Tensor], path: Path) -> None:
    # Tied tensors are written out: the libraries ask for all names.
    save_weights({name: value.clone() for name, value in state.items()}, path, {"format": "pt"})


_EXPORT: dict[str, Callable[[Any, ModelDescription, Path], str]] = {
    "open_clip": _open_clip,
    "timm": _timm,
    "torchvision": _torchvision,
}
