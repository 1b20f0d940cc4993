"""What answers for a soup in ``mlflow models serve``.

MLflow copies this file into the artifact beside the weights and runs the copy, so it imports nothing of this package.
The file that builds the network, which the backbone brought, and the one that decoded the training images are in the
artifact too, in MLflow's folder for code.

Whoever asks may send anything. So there are limits:

- An image may have at most ``SOUP_MAX_PIXELS`` pixels (an environment variable of the server), known before it is
  decoded. All images that are decoded at a time, by all requests together, have no more either: an image waits until
  there is room for it, and is refused if there is none in `_PATIENCE` seconds.
- A request is given up when the server's ``--timeout`` has passed, as nobody waits for its answer any more.

What MLflow does before it calls this file, which is to read the request, has no limit: that is for a proxy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import DEADLINE_EXCEEDED, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

_PILLOW_BLOCK = 2**26  # bytes; of smaller ones, 2**24 by itself, malloc would keep some for every thread that decoded
_BATCH = 64  # images that are decoded, then given to the network, at a time
_LIMIT = "SOUP_MAX_PIXELS"
_MAX_PIXELS = 2**26  # photos of 60 megapixels have fewer; decoded they take up to 16 bytes each, 1 GiB together
_PATIENCE = 5.0  # seconds
_TIMEOUT = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"  # seconds; `mlflow models serve --timeout` sets it in its server


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


class _Room:
    """The pixels that may be decoded at a time."""

    def __init__(self, pixels: int) -> None:
        self.pixels = self._free = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Take this many for the time of the block; raises MlflowException where others have them for too long."""
        with self._changed:
            if not self._changed.wait_for(lambda: pixels <= self._free, _PATIENCE):
                raise MlflowException("busy with the images of others; ask again later", TEMPORARILY_UNAVAILABLE)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


def _max_pixels() -> int:
    text = os.environ.get(_LIMIT, str(_MAX_PIXELS))
    if not text.isdecimal() or int(text) == 0:
        raise MlflowException(f"{_LIMIT}: must be a number of pixels ({_MAX_PIXELS}), got '{text}'")
    return int(text)


class ServedSoup(PythonModel):  # type: ignore[misc]
    """Encoded images (a column ``image`` of JPEG, PNG, ... bytes) to label, its probability, and all logits."""

    def load_context(self, context: Any) -> None:
        """Build the network and load the weights; on a GPU if there is one."""
        self.description = json.loads(Path(context.artifacts["description"]).read_text(encoding="utf-8"))
        self.decode = _shipped("decode")
        self.room = _Room(_max_pixels())
        Image.core.set_block_size(_PILLOW_BLOCK)  # type: ignore[attr-defined]
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
        """A row per image. Raises MlflowException for bytes that are no image, and beyond the limits (see above)."""
        end = time.monotonic() + float(os.environ.get(_TIMEOUT, "inf"))
        parts = [torch.empty(0, len(self.description["class_names"]))]
        for start in range(0, len(model_input), _BATCH):
            rows = enumerate(model_input["image"].iloc[start : start + _BATCH], start)
            images = torch.from_numpy(np.stack([self._pixels(row, data, end) for row, data in rows]))
            with torch.inference_mode():
                parts.append(self.network(images.to(self.device) / 255).cpu())
        logits = torch.cat(parts)
        best = logits.softmax(1).max(1)
        return pd.DataFrame(
            {
                "label": [self.description["class_names"][index] for index in best.indices.tolist()],
                "probability": best.values.tolist(),
                "logits": logits.tolist(),
            }
        )

    def _pixels(self, row: int, data: bytes, end: float) -> np.ndarray:
        """The image as the network was trained on: uint8 (3, size, size)."""
        if time.monotonic() > end:
            reason = f"image {row}: the server's --timeout has passed; give fewer images at a time"
            raise MlflowException(reason, DEADLINE_EXCEEDED)
        try:
            with (
                self.decode.open_image(data, self.room.pixels) as image,
                self.room.taken(self.decode.num_pixels(image)),
            ):
                pixels: np.ndarray = self.decode.read_image(image, self.description["image_size"])
        except MlflowException:
            raise
        except Exception as error:  # of any kind, as Pillow raises them
            reason = (
                f"image {row}: cannot be read ({error}); give the bytes of a JPEG, PNG, ... file in base64, of at most "
                f"{self.room.pixels} pixels"
            )
            raise MlflowException(reason, INVALID_PARAMETER_VALUE) from error
        return pixels


mlflow.models.set_model(ServedSoup())
