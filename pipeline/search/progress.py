"""How a sweep gets on: a line of a table per ended trial, and gauges for Prometheus through Ray's own exporter."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.util.metrics import Gauge

from pipeline.records import Hyperparameters, IngredientRecord, cost_unit
from pipeline.search.progress_table import ProgressTable

logger = logging.getLogger(__name__)


class Progress(tune.Callback):  # type: ignore[misc]
    """Tells of each ended trial of ``sweep``; ``trials`` are all that it has, ``recorded`` those of earlier calls.

    ``rows`` are all that ended, ``running`` the indices into ``trials`` (``config["trial"]``) of those under way.
    """

    def __init__(self, recorded: Sequence[IngredientRecord], trials: Sequence[Hyperparameters], sweep: str) -> None:
        self.rows, self._resumed, self._total = list(recorded), len(recorded), len(trials)
        self._table = ProgressTable([trial.model_dump() for trial in trials])
        self.running: set[int] = set()
        self._start = time.monotonic()
        self._finished = Gauge("ingredients_finished", "Finished trials of the sweep.", ("sweep",))
        self._hours = Gauge("gpu_hours", "Cost of all ended trials; CPU core hours where there is no GPU.", ("sweep",))
        self._best = Gauge("best_accuracy", "Best validation accuracy of a trial, a fraction.", ("sweep",))
        for gauge in (self._finished, self._hours, self._best):
            gauge.set_default_tags({"sweep": sweep})
        self._measure()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        self.running.add(trial.config["trial"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver, when an attempt has failed and the trial is tried again."""
        why = reason_of(Path(trial.error_file).read_text(encoding="utf-8"))
        logger.info("search: an attempt of trial %d failed (%s); trying again", trial.config["trial"], why)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver, when a trial is not tried again."""
        self.running.discard(trial.config["trial"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        self.running.discard(trial.config["trial"])
        if row := trial.last_result.get("row"):
            self.tell(IngredientRecord.model_validate_json(row))

    def tell(self, row: IngredientRecord) -> None:
        """Log the line of an ended trial."""
        if len(self.rows) == self._resumed:
            for line in self._table.head(cost_unit([row])):
                logger.info("%s", line)
        self.rows.append(row)
        self._measure()
        seconds = (time.monotonic() - self._start) / (len(self.rows) - self._resumed) * (self._total - len(self.rows))
        left = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        line = self._table.row(row, self._best_accuracy(), f"{len(self.rows)}/{self._total}", left)
        logger.info("%s%s", line, f"  {row.reason}" if row.reason else "")

    def _best_accuracy(self) -> float | None:
        return max((row.val_accuracy for row in self.rows if row.val_accuracy is not None), default=None)

    def _measure(self) -> None:
        self._finished.set(sum(row.status == "finished" for row in self.rows))
        self._hours.set(sum(row.gpu_hours for row in self.rows))
        self._best.set(self._best_accuracy() or 0.0)


def reason_of(error: object) -> str:
    """The first line of the innermost exception in a traceback of Ray's, else the last line; not too long for a tag."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    said = [line for line in lines[frames[-1] :] if not line[0].isspace()] if frames else lines[-1:]
    return next(iter(said or lines[-1:]), type(error).__name__).strip()[:500]
