"""Asking a served soup from a process that has MLflow and the libraries, and nothing of this package."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

_PREDICT = """
import sys
sys.modules["pipeline"] = None
import json, mlflow, pandas
files = [bytes.fromhex(line) for line in sys.stdin.read().split()]
answer = mlflow.pyfunc.load_model(sys.argv[1]).predict(pandas.DataFrame({"image": files}))
print(json.dumps(answer["logits"].tolist()))
"""


def png(pixels) -> bytes:
    """A PNG file of uint8 pixels (3, H, W) or (H, W)."""
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "png")
    return file.getvalue()


def logits_elsewhere(model_uri: str, files: list[bytes], folder: Path, **environment: str) -> torch.Tensor:
    """The logits (B, classes) of image ``files``, from a process in the working directory ``folder``."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", _PREDICT, model_uri],
        input="\n".join(file.hex() for file in files),
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return torch.tensor(json.loads(done.stdout))
