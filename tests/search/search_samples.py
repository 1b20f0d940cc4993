"""What the tests of `run_trials` hand to Tune workers; a module, because workers import it by name."""

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from pipeline.records import IngredientRecord
from pipeline.weights import save_weights


@dataclass(frozen=True)
class FolderRecorder:
    """Keeps rows and weights as files. ``faults`` maps a trial to what goes wrong when its weights are uploaded."""

    folder: Path
    faults: dict[int, str] = field(default_factory=dict)

    def begin(self, trial_index, hyper):
        (self.folder / f"begun-{trial_index}").write_text(hyper.model_dump_json())

    def log_epochs(self, trial_index, epochs):
        with (self.folder / f"epochs-{trial_index}").open("a") as file:
            file.writelines(f"{row.epoch}\n" for row in epochs)

    def upload(self, trial_index, state):
        calls = self.folder / f"uploads-{trial_index}"
        with calls.open("a") as file:
            file.write("x")
        match self.faults.get(trial_index):
            case "once" if len(calls.read_text()) == 1:
                raise ConnectionError("the registry was away for a moment")
            case "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")
            case "always":
                raise ConnectionError("the registry is away for good\n" + "y" * 9000)
            case "no room once" if len(calls.read_text()) == 1:
                raise RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'")  # of a context
            case "no room":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            case "killed once" if len(calls.read_text()) == 1:
                os._exit(9)
            case "killed":
                os._exit(9)
        path = self.folder / f"{trial_index}.safetensors"
        return str(path), save_weights(state, path, {})

    def record(self, row, **tags):
        with (self.folder / "rows").open("a") as file:
            file.write(row.model_dump_json() + "\n")

    def rows(self):
        path = self.folder / "rows"
        lines = path.read_text().splitlines() if path.exists() else []
        return [IngredientRecord.model_validate(json.loads(line)) for line in lines]

    def uploads(self, trial_index):
        path = self.folder / f"uploads-{trial_index}"
        return len(path.read_text()) if path.exists() else 0


class Small(nn.Module):
    """Any module that takes uint8 images is fine-tuned; this one needs no library that is slow to import."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 10))

    def forward(self, images):
        return self.body(images.float() / (1 if images.is_floating_point() else 255))


def build():
    return Small()
