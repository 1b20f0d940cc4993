"""What the stages of a run share."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from pipeline.cluster import Cluster
from pipeline.config import Config
from pipeline.data import Splits
from pipeline.files import write_text
from pipeline.models import build_classifier
from pipeline.provenance import git_commit, library_versions, machine
from pipeline.records import IngredientRecord, RunRecord
from pipeline.records.tables import read_table
from pipeline.registry import Sweep
from pipeline.stages.state import RunState


@dataclass(frozen=True)
class Run:
    """What the stages of a run share; ``splits_ref`` is ``splits`` in Ray's object store, once for all tasks."""

    config: Config
    state: RunState
    sweep: Sweep
    cluster: Cluster
    splits: Splits
    splits_ref: ray.ObjectRef

    def path(self, *parts: str) -> Path:
        """A path in the run's folder."""
        return self.config.output.joinpath(*parts)

    def build_model(self) -> Any:
        """A picklable function that builds the architecture."""
        return functools.partial(build_classifier, self.config.model, len(self.splits.class_names))

    def begin(
        self, theta0_sha256: str | None, theta0_gpu_hours: float | None, theta0_test_accuracy: float | None
    ) -> RunRecord:
        """Write ``run.json``: what the run is made with, and its starting point."""
        record = RunRecord(
            name=self.config.name,
            sweep_id=self.state.sweep_id,
            seed=self.config.seed,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            git_commit=git_commit(),
            versions=library_versions(),
            machine=machine(),
            class_names=list(self.splits.class_names),
            splits=list(self.splits.records),
            theta0_sha256=theta0_sha256,
            theta0_gpu_hours=theta0_gpu_hours,
            theta0_test_accuracy=theta0_test_accuracy,
        )
        write_text(self.path("run.json"), record.model_dump_json(indent=1))
        return record

    def record(self) -> RunRecord:
        """What the run was made with, as last written."""
        return RunRecord.model_validate_json(self.path("run.json").read_text(encoding="utf-8"))

    def ingredients(self) -> list[IngredientRecord]:
        """The recorded trials."""
        return read_table(self.path("ingredients.parquet"), IngredientRecord)
