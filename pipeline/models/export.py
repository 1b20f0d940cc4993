"""Weights as the library of their network loads them back, and as a program that runs without any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.backbone import backbone_module
from pipeline.models.classifier import Classifier
from pipeline.records import ModelDescription
from pipeline.weights import save_weights


def export_weights(model: Classifier, description: ModelDescription, folder: Path) -> str:
    """Write safetensors and configuration for the library of ``description``; returns the code that loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "description.json").write_text(description.model_dump_json(indent=1), encoding="utf-8")
    how = backbone_module(description.backbone).export(model, description, folder)
    return how.replace("{folder}", str(folder))


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


def state_with_head(model: Classifier, description: ModelDescription) -> dict[str, Tensor]:
    """The state of a library's whole network: the tower's, and the head's under the name of the layer it replaced."""
    head = {f"{description.head_name}.{name}": value for name, value in model.head.state_dict().items()}
    return {**model.tower.state_dict(), **head}


def write_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file for a library, which asks for all names: tied tensors are written out."""
    save_weights({name: value.clone() for name, value in state.items()}, path, {"format": "pt"})
