"""What Ray does with GPUs: a process for each task, and trials that share a GPU which is too small for two."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gpu import samples
from gpu.lines import GIB, Line, Scale, at_most, holds
from gpu.processes import told
from gpu.speed import drawn_splits, search_settings, strong

if TYPE_CHECKING:  # they need Ray or pydantic, which a machine may lack
    from pipeline.records import Hyperparameters, IngredientRecord

ROUNDS = 3
# A context of CUDA takes half a GiB, which is free again a moment after its process has ended.
LEFT_GIB, PATIENCE_SECONDS = 0.1, 10
# Trials, their epochs, batches in an epoch, seconds of a batch.
SIZES: dict[Scale, tuple[int, int, int, float]] = {
    "full": (4, 3, 20, 0.1),
    "quick": (4, 3, 20, 0.1),
    "tiny": (2, 1, 2, 0.0),
}
# Of a GPU that a trial takes: two are too many.
SHARE = 0.55


def assignment(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """Rounds of tasks that have a GPU each; on a CPU Ray is told of two GPUs that are not there."""
    from pipeline.cluster import as_they_come, ray  # ray from there, which sets its environment first
    from pipeline.errors import SoupError

    gpus = 2 if device == "cpu" else torch.cuda.device_count()
    ray.init(
        address="local", num_cpus=max(2 * gpus, os.cpu_count() or 1), num_gpus=gpus, include_dashboard=False,
        log_to_driver=False, logging_level="error",
    )  # fmt: skip
    free = [_free_bytes(device, gpu) for gpu in range(gpus)]
    stays: list[dict[str, Any]] = []
    for _ in range(ROUNDS):
        calls = [(device,)] * gpus
        stays += [stay for _, stay in as_they_come(_stay, {"num_gpus": 1, "num_cpus": 1}, calls, SoupError, "check")]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (held := _held_bytes(device, free)) > LEFT_GIB * GIB and time.monotonic() < deadline:
        time.sleep(0.2)
    ray.shutdown()
    pids = {stay["pid"] for stay in stays}
    measured = f"{len(pids)} processes for {len(stays)} tasks on {gpus} GPUs"
    yield holds(f"tasks with a GPU in {ROUNDS} rounds", len(pids) == ROUNDS * gpus, measured, "one for each task")
    seen = [(stay["visible"], stay["count"]) for stay in stays]
    right = all(stay["visible"] == ",".join(map(str, stay["gpus"])) and stay["count"] == 1 for stay in stays)
    yield holds("CUDA_VISIBLE_DEVICES of a task", right, f"{sorted(set(seen))}", "the one GPU that it was given")
    yield at_most("memory of a GPU that ended tasks hold", held / GIB, LEFT_GIB, "GiB")


def _stay(device: str) -> Iterator[dict[str, Any]]:
    import ray

    if device != "cpu":
        torch.ones(1, device=device)  # makes a context
    count = 1 if device == "cpu" else torch.cuda.device_count()
    gpus, visible = ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]
    yield {"pid": os.getpid(), "visible": visible, "gpus": gpus, "count": count}


def _free_bytes(device: str, gpu: int) -> int:
    return 0 if device == "cpu" else torch.cuda.mem_get_info(gpu)[0]


def _held_bytes(device: str, free_before: Sequence[int]) -> int:
    return max(before - _free_bytes(device, gpu) for gpu, before in enumerate(free_before))


class Heavy(nn.Module):
    """A model that takes more than half of a GPU while it trains."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, samples.CLASSES)
        self.seconds = seconds
        self.ballast: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        if images.is_cuda and self.ballast is None:
            total = torch.cuda.get_device_properties(images.device).total_memory
            self.ballast = torch.empty(int(SHARE * total), dtype=torch.uint8, device=images.device)
        time.sleep(self.seconds)
        return self.head(images.flatten(1).float())


@dataclass(frozen=True)
class BuildHeavy:
    """Builds a `Heavy` in a worker."""

    seconds: float

    def __call__(self) -> nn.Module:
        return Heavy(self.seconds)


@dataclass(frozen=True)
class Rows:
    """Keeps the rows of trials as lines of a file."""

    path: Path

    def begin(self, trial_index: int, hyper: Hyperparameters) -> None:
        pass

    def log_epochs(self, trial_index: int, epochs: Any) -> None:
        pass

    def upload(self, trial_index: int, state: Any) -> tuple[str, str]:
        return "nowhere", "0" * 64

    def record(self, row: IngredientRecord, **tags: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(row.model_dump_json() + "\n")


def crowded_trials(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """Trials that have half a GPU each and need more than half."""
    from pipeline.cluster import ray, start_ray
    from pipeline.records import IngredientRecord
    from pipeline.search.sampling import Trial
    from pipeline.search.storage import Storage
    from pipeline.search.trial import TrialContext
    from pipeline.search.tuner import run_trials

    count, epochs, batches, seconds = SIZES[scale]
    use_gpu = device != "cpu"
    start_ray()
    rows = folder / "rows"
    context = TrialContext(
        name="crowded",
        trials=tuple(Trial(index, strong(8, epochs)) for index in range(count)),
        build_model=BuildHeavy(seconds),
        splits=ray.put(drawn_splits(8 * batches, 8, samples.CLASSES)),
        theta0=ray.put(Heavy(0).state_dict()),
        theta0_sha256=None,
        settings=search_settings(),
        use_gpu=use_gpu,
        reserved=0.5 if use_gpu else 1,
        storage=Storage(str(folder / "kept")),
        experiments=folder / "tune",
        recorder=Rows(rows),
    )
    with told("pipeline.search") as messages:
        run_trials(context, [], "crowded")
    ray.shutdown()
    lines = rows.read_text(encoding="utf-8").splitlines()
    ended = [IngredientRecord.model_validate_json(line) for line in lines]
    crowded = [text for text in messages if "ran out of memory" in text]
    what = f"{count} trials that share a GPU too small for two"
    measured = crowded[0].partition("; ")[2] if crowded else "it did not run out of memory"
    yield holds(f"{what} go on", bool(crowded), measured, "with more of a GPU for each")
    finished = sum(row.status == "finished" for row in ended)
    yield holds(f"{what} end", finished == count, f"{finished} of {count} finished", "all")
