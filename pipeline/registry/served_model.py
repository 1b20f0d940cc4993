"""What answers for a soup in ``mlflow models serve``.

MLflow copies this file into the artifact beside the weights and runs the copy, so it imports nothing of this package.
The file that builds the network, which the backbone brought, and the reader, which encoded the training examples, are
in the artifact too, in MLflow's folder for code.

Whoever asks may send anything. So there are limits: those of the reader, and a request is given up when the server's
``--timeout`` has passed, as nobody waits for its answer any more. What MLflow does before it calls this file, which is
to read the request, has no limit: that is for a proxy.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import uuid
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
from safetensors.torch import load_file
from torch import Tensor, nn

_BATCH = 64  # examples that are read, then given to the network, at a time
_TIMEOUT = "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"  # seconds; `mlflow models serve --timeout` sets it in its server


class Network(nn.Module):
    """Encoded examples (B, ...) to logits (B, classes); built from a ``ModelDescription``."""

    def __init__(self, description: dict[str, Any], reader: ModuleType) -> None:
        super().__init__()
        self.prepare = reader.prepare(description)
        module = _shipped(description["network_module"])
        self.tower = module.build(description["architecture"], description["head_name"])
        self.head = nn.Linear(description["feature_dim"], len(description["class_names"]))
        self.normalize_features = description["normalize_features"]

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        features = self.tower(self.prepare(inputs))
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
    """Examples, in the columns that the reader says, to label, its probability, and all logits."""

    def load_context(self, context: Any) -> None:
        """Build the network and load the weights; on a GPU if there is one."""
        self.description = json.loads(Path(context.artifacts["description"]).read_text(encoding="utf-8"))
        reader = _shipped(self.description["reader_module"])
        try:
            self.read = reader.Reader(self.description)
        except ValueError as error:
            raise MlflowException(str(error)) from error
        self.name, self.names = reader.NAMES
        self.columns = list(reader.columns(self.description))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        network = Network(self.description, reader)
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
        """A row per example. Raises MlflowException for what is none, and beyond the limits (see above)."""
        end = time.monotonic() + float(os.environ.get(_TIMEOUT, "inf"))
        parts = [torch.empty(0, len(self.description["class_names"]))]
        for start in range(0, len(model_input), _BATCH):
            rows = model_input[self.columns].iloc[start : start + _BATCH].to_dict("records")
            inputs = torch.from_numpy(
                np.stack([self._encoded(row, values, end) for row, values in enumerate(rows, start)])
            )
            with torch.inference_mode():
                parts.append(self.network(inputs.to(self.device)).cpu())
        logits = torch.cat(parts)
        best = logits.softmax(1).max(1)
        return pd.DataFrame(
            {
                "label": [self.description["class_names"][index] for index in best.indices.tolist()],
                "probability": best.values.tolist(),
                "logits": logits.tolist(),
            }
        )

    def _encoded(self, row: int, values: dict[str, Any], end: float) -> np.ndarray:
        """The example as the network was trained on."""
        if time.monotonic() > end:
            reason = f"{self.name} {row}: the server's --timeout has passed; give fewer {self.names} at a time"
            raise MlflowException(reason, DEADLINE_EXCEEDED)
        try:
            encoded: np.ndarray = self.read(values)
        except TimeoutError as error:
            raise MlflowException(str(error), TEMPORARILY_UNAVAILABLE) from error
        except ValueError as error:
            raise MlflowException(f"{self.name} {row}: {error}", INVALID_PARAMETER_VALUE) from error
        return encoded


mlflow.models.set_model(ServedSoup())
