"""A soup as a model that MLflow serves: code, safetensors and a description of the network; no pickle."""

from __future__ import annotations

import io
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from PIL import Image

from pipeline.records import DESCRIPTION_FILE, ModelDescription

_SERVED = Path(__file__).with_name("served_model.py")
_REQUIREMENTS = ("mlflow", "torch", "pillow", "safetensors", "numpy", "pandas")
_SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Array(DataType.double), "logits"),
        ]
    ),
)


@dataclass(frozen=True)
class SoupModel:
    """A soup's safetensors file and the network that its tensors belong to.

    ``network_file`` is the Python file that builds the network; it imports nothing but ``requirements``, the names of
    distributions, and torch.
    """

    weights: Path
    description: ModelDescription
    network_file: Path
    requirements: tuple[str, ...]


def save_served_model(folder: Path, model: SoupModel) -> str:
    """Write MLflow's model ``folder`` for a soup; returns the path of the weights in it."""
    description = folder.with_name(DESCRIPTION_FILE)
    description.write_text(model.description.model_dump_json(indent=1), encoding="utf-8")
    requirements = dict.fromkeys((*_REQUIREMENTS, *model.requirements))  # each once
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(_SERVED),
        code_paths=[str(model.network_file)],
        artifacts={"weights": str(model.weights), "description": str(description)},
        signature=_SIGNATURE,
        input_example=pd.DataFrame({"image": [_example(model.description.image_size)]}),
        # Of a local version (2.13.0+cpu) no registry knows the last part.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in requirements],
    )
    return f"artifacts/{model.weights.name}"


def _example(size: int) -> bytes:
    """A PNG file with a grey ramp."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).save(file, "png")
    return file.getvalue()
