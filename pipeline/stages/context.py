"""What the stages of a run share."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray

from pipeline.cluster import Cluster
from pipeline.config import Config
from pipeline.data import KINDS, Splits
from pipeline.metrics import METRICS
from pipeline.models import build_classifier
from pipeline.precision import resolved
from pipeline.provenance import git_commit, library_versions, machine
from pipeline.records import RECORDS_VERSION, IngredientRecord, Precision, RunRecord
from pipeline.records.folder import RunFolder, read_run, write_run
from pipeline.records.tables import read_table
from pipeline.registry import Sweep
from pipeline.soups import METHODS
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

    @property
    def precision(self) -> Precision:
        """What models compute in, on whatever device."""
        return resolved(self.splits.precision, self.cluster.device)

    @property
    def folder(self) -> RunFolder:
        """What lies where."""
        return RunFolder(self.config.output)

    @property
    def unfinished_soups(self) -> Path:
        """Where soups keep what they go on from: seen by all nodes where `search.storage` is a folder."""
        storage = self.config.search.storage
        if storage is None or "://" in storage:
            return self.folder.unfinished_soups
        return Path(storage, self.state.sweep_id, self.folder.unfinished_soups.name)

    def path(self, *parts: str) -> Path:
        """A path in the run's folder."""
        return self.config.output.joinpath(*parts)

    def build_model(self) -> Any:
        """A picklable function that builds the architecture."""
        return functools.partial(build_classifier, self.config.model, len(self.splits.class_names))

    def begin(
        self,
        theta0_sha256: str | None,
        theta0_gpu_hours: float | None,
        figures: Mapping[str, float | None],
        theta0_device: str | None = None,
    ) -> RunRecord:
        """Write ``run.json``: what the run is made with, and its starting point with its ``figures`` by column."""
        metric, kind = METRICS[self.splits.metric], KINDS[self.splits.kind]
        record = RunRecord(
            records_version=RECORDS_VERSION,
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
            theta0_test_accuracy=figures.get("test_accuracy"),
            theta0_val_accuracy=figures.get("val_accuracy"),
            theta0_select_accuracy=figures.get("select_accuracy"),
            theta0_shift_accuracies={
                name: figures.get(f"{name}_accuracy") or 0.0 for name in self.splits.shifts if figures
            },
            labels=method_labels(),
            theta0_device=theta0_device,
            precision=self.precision,
            metric=self.splits.metric,
            metric_label=metric.label,
            theta0_scores={
                name.removesuffix("_score"): value
                for name, value in figures.items()
                if name.endswith("_score") and value is not None
            },
            example=kind.singular,
            examples=kind.plural,
        )
        write_run(self.folder, record)
        return record

    def record(self) -> RunRecord:
        """What the run was made with, as last written."""
        return read_run(self.folder)

    def ingredients(self) -> list[IngredientRecord]:
        """The recorded trials."""
        return read_table(self.folder.ingredients, IngredientRecord)


def method_labels() -> dict[str, str]:
    """What tables and figures call the soup methods."""
    return {name: method.label for name, method in METHODS.items()}
