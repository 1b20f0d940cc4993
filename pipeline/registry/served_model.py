"""What answers for a soup in ``mlflow models serve``.

MLflow copies this file into the artifact beside the weights and runs the copy, so it imports nothing of this package.
The file that builds the network, which the backbone brought, is in the artifact too, in MLflow's folder for code.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

_BATCH = 64


class Network(nn.Module):
    """Images (B, 3, H, W) with values in [0, 1] to logits (B, classes); built from a ``ModelDescription``."""

    mean: Tensor
    std: Tensor

    def __init__(self, description: dict[str, Any]) -> None:
        super().__init__()
        module = _shipped(description["network_module"])
        self.tower = module.build(description["architecture"], description["head_name"])
        self.head = nn.Linear(description["feature_dim"], len(description["class_names"]))
        self.normalize_features = description["normalize_features"]
        self.register_buffer("mean", torch.tensor(description["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(description["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        features = self.tower((images - self.mean) / self.std)
        if self.normalize_features:
            features = nn.functional.normalize(features, dim=-1)
        logits: Tensor = self.head(features)
        return logits


def _shipped(name: str) -> ModuleType:
    """The module ``name`` of the artifact, which MLflow keeps in the folder ``code``.

    It is imported from its path under a name of its own, as MLflow imports this file: two soups in one process may have
    been shipped with different files of one name.
    """
    path = Path(__file__).parent / "code" / f"{name}.py"
    own_name = f"{name}_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(own_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: is no Python file")
    module = sys.modules[own_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ServedSoup(PythonModel):  # type: ignore[misc]
    """Encoded images (a column ``image`` of JPEG, PNG, ... bytes) to label, its probability, and all logits."""

    def load_context(self, context: Any) -> None:
        """Build the network and load the weights; on a GPU if there is one."""
        self.description = json.loads(Path(context.artifacts["description"]).read_text(encoding="utf-8"))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        network = Network(self.description)
        weights = load_file(context.artifacts["weights"])
        misfits = network.load_state_dict(weights, strict=False)
        state = network.state_dict()
        # Tied tensors are stored once, under the first of their names.
        loaded = {state[name].data_ptr() for name in weights if name in state}
        missing = [name for name in misfits.missing_keys if state[name].data_ptr() not in loaded]
        if differing := [*misfits.unexpected_keys, *missing]:
            raise MlflowException(f"weights and network differ in {differing[0]}; install what requirements.txt says")
        self.network = network.to(self.device).eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A row per image; raises MlflowException for bytes that are no image."""
        images = torch.from_numpy(np.stack([self._pixels(*one) for one in enumerate(model_input["image"])]))
        with torch.inference_mode():
            batches = [self.network(batch.to(self.device) / 255).cpu() for batch in images.split(_BATCH)]
        logits = torch.cat(batches)
        best = logits.softmax(1).max(1)
        return pd.DataFrame(
            {
                "label": [self.description["class_names"][index] for index in best.indices.tolist()],
                "probability": best.values.tolist(),
                "logits": logits.tolist(),
            }
        )

    def _pixels(self, row: int, data: bytes) -> np.ndarray:
        """The image as the network was trained on: RGB, its centre square resized, uint8 (3, size, size)."""
        size = self.description["image_size"]
        try:
            image: Image.Image = Image.open(io.BytesIO(data))
            image.draft("RGB", (2 * size, 2 * size))
            if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
                image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
            image = image.convert("RGB")
        except Exception as error:  # of any kind, as Pillow raises them
            reason = f"image {row}: cannot be read ({error}); give the bytes of a JPEG or PNG file in base64"
            raise MlflowException(reason, INVALID_PARAMETER_VALUE) from error
        if image.size != (size, size):
            side = min(image.size)
            left, top = ((length - side) / 2 for length in image.size)
            box = (left, top, left + side, top + side)
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        return np.asarray(image).transpose(2, 0, 1)


mlflow.models.set_model(ServedSoup())
