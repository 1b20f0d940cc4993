"""A soup as a model that MLflow serves: code, safetensors and a description of the network; no pickle."""

from __future__ import annotations

import io
from importlib.metadata import version
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array
from PIL import Image

from pipeline.records import ModelDescription

DESCRIPTION = "description.json"
_SERVED = Path(__file__).with_name("served_model.py")
_REQUIREMENTS = ("mlflow", "torch", "torchvision", "pillow", "safetensors", "numpy", "pandas")
_LIBRARIES = {"open_clip": "open_clip_torch", "timm": "timm"}
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


def save_served_model(folder: Path, weights: Path, description: ModelDescription) -> str:
    """Write MLflow's model ``folder`` for the safetensors file ``weights``; returns the path of the weights in it."""
    text = folder.with_name(DESCRIPTION)
    text.write_text(description.model_dump_json(indent=1), encoding="utf-8")
    requirements = [*_REQUIREMENTS, *filter(None, [_LIBRARIES.get(description.backbone)])]
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(_SERVED),
        artifacts={"weights": str(weights), "description": str(text)},
        signature=_SIGNATURE,
        input_example=pd.DataFrame({"image": [_example(description.image_size)]}),
        # Of a local version (2.13.0+cpu) no registry knows the last part.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in requirements],
    )
    return f"artifacts/{weights.name}"


def _example(size: int) -> bytes:
    """A PNG file with a grey ramp."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((size, size)).save(file, "png")
    return file.getvalue()
