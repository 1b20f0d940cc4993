"""What the stages of a run share."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipeline.cluster import Cluster
from pipeline.config import Config
from pipeline.data import Splits, read_table
from pipeline.models import build_classifier
from pipeline.records import IngredientRecord, RunRecord
from pipeline.registry import Sweep
from pipeline.state import RunState


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

    def record(self) -> RunRecord:
        """What the run was made with, as last written."""
        return RunRecord.model_validate_json(self.path("run.json").read_text(encoding="utf-8"))

    def ingredients(self) -> list[IngredientRecord]:
        """The recorded trials."""
        return read_table(self.path("ingredients.parquet"), IngredientRecord)
