"""Weights as the library of their network loads them back, and as a program that runs without any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.data import KINDS
from pipeline.errors import ModelError, PipelineError, first_line
from pipeline.files import filling
from pipeline.models.backbone import backbone_module
from pipeline.models.classifier import Classifier
from pipeline.records import DESCRIPTION_FILE, ModelDescription
from pipeline.weights import save_weights

_PROGRAM = "model.pt2"


def export_weights(model: Classifier, description: ModelDescription, folder: Path, *, program: bool = False) -> str:
    """Write files for the library of ``description`` into ``folder``, new or empty; returns the code that loads them.

    With ``program`` also what `export_program` writes. Whatever goes wrong, nothing is left behind. Raises ModelError,
    and OSError where ``folder`` cannot be written.
    """
    backbone = backbone_module(description.backbone)
    with filling(folder) as partial:
        (partial / DESCRIPTION_FILE).write_text(description.model_dump_json(indent=1), encoding="utf-8")
        if program:
            export_program(model, description, partial / _PROGRAM)
        try:
            return backbone.export(model, description, partial).replace("{folder}", str(folder))
        except PipelineError:
            raise
        except Exception as error:  # of any kind: anybody may write a backbone
            reason = first_line(error)
            raise ModelError(
                f"backbone '{description.backbone}' cannot export its model ({type(error).__name__}: {reason})"
            ) from error


def export_program(model: Classifier, description: ModelDescription, path: Path) -> None:
    """Write ``model`` by torch.export: examples (B, ...) to logits, for any B, as `Kind.exported` has them.

    Raises ModelError for a network that torch.export cannot trace.
    """
    kind, inputs = KINDS[description.kind], description.inputs
    example = kind.reader.Reader(inputs)(kind.reader.example(inputs))
    examples = kind.exported(torch.from_numpy(np.stack([example, example])))  # torch takes a batch of one as a constant
    try:
        program = torch.export.export(model.eval(), (examples,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except Exception as error:  # of many kinds
        reason = first_line(error)
        raise ModelError(
            f"{path.name}: torch.export cannot trace the network ({reason}); export without --program"
        ) from error
    torch.export.save(program, path)


def state_with_head(model: Classifier, description: ModelDescription) -> dict[str, Tensor]:
    """The state of a library's whole network: the tower's, and the head's under the name of the layer it replaced."""
    head = {f"{description.head_name}.{name}": value for name, value in model.head.state_dict().items()}
    return {**model.tower.state_dict(), **head}


def write_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file for a library, which asks for all names: tied tensors are written out."""
    save_weights({name: value.clone() for name, value in state.items()}, path, {"format": "pt"})
