"""What answers for a soup in ``mlflow models serve``.

MLflow copies this file into the artifact beside the weights and runs the copy, so it imports nothing of this package.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
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
        self.tower = _tower(description["backbone"], description["architecture"], description["head_name"])
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


def _tower(backbone: str, architecture: dict[str, Any], head_name: str | None) -> nn.Module:
    if backbone == "open_clip":
        import open_clip

        clip: nn.Module = open_clip.model.CLIP(**architecture)
        return clip.get_submodule("visual")
    if backbone == "timm":
        import timm

        network: nn.Module = timm.create_model(**architecture)
    else:
        import torchvision

        network = torchvision.models.get_model(**architecture)
    network.set_submodule(str(head_name), nn.Identity())
    return network


class ServedSoup(PythonModel):  # type: ignore[misc]
    """Encoded images (a column ``image`` of JPEG, PNG, ... bytes) to label, its probability, and all logits."""

    def load_context(self, context: Any) -> None:
        """Build the network and load the weights; on a GPU if there is one."""
        self.description = json.loads(Path(context.artifacts["description"]).read_text(encoding="utf-8"))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        network = Network(self.description)
        weights = load_file(context.artifacts["weights"])
        found = network.load_state_dict(weights, strict=False)
        state = network.state_dict()
        # Tied tensors are stored once, under the first of their names.
        loaded = {state[name].data_ptr() for name in weights if name in state}
        missing = [name for name in found.missing_keys if state[name].data_ptr() not in loaded]
        if misfits := [*found.unexpected_keys, *missing]:
            raise MlflowException(f"weights and network differ in {misfits[0]}; install what requirements.txt says")
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
