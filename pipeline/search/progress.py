"""How a sweep gets on: a line of a table per ended trial, a line after each silence, and gauges for Prometheus."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune

from pipeline.gauges import show_trials
from pipeline.records import Hyperparameters, IngredientRecord, cost_unit
from pipeline.search.progress_table import ProgressTable

logger = logging.getLogger(__name__)

_SILENCE = 60.0  # seconds without a line, after which the trials that run are told
_NAMED = 8  # so many of them by name


class Progress(tune.Callback):  # type: ignore[misc]
    """Tells of the trials of ``sweep``; ``trials`` are all that it has, ``recorded`` those of earlier calls.

    ``rows`` are all that ended, ``running`` the indices into ``trials`` (``config["trial"]``) of those under way, and
    ``failed`` has by such an index what Ray said of the last attempt of a trial that is not tried again, ``crowded``
    are those whose GPU had too little memory for them and their neighbours.
    """

    def __init__(self, recorded: Sequence[IngredientRecord], trials: Sequence[Hyperparameters], sweep: str) -> None:
        self.rows, self._resumed, self._total, self._sweep = list(recorded), len(recorded), len(trials), sweep
        self._table = ProgressTable([trial.given for trial in trials])
        self._epochs = [trial.epochs for trial in trials]
        self.running: set[int] = set()
        self.failed: dict[int, str] = {}
        self.crowded: set[int] = set()
        self._epochs_done: dict[int, int] = {}
        self._start = self._told = time.monotonic()
        self._measure()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        if not self.running and len(self.rows) == self._resumed:
            self._tell("search: the first trial runs")
        self.running.add(trial.config["trial"])
        self._measure()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Called by Tune in the driver, after every epoch."""
        if "epoch" in result:
            self._epochs_done[trial.config["trial"]] = result["epoch"]

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in the driver, several times a second, whether anything happened or not."""
        if self.running and time.monotonic() - self._told > _SILENCE:
            under_way = [f"{trial} (epoch {self._epoch(trial)})" for trial in sorted(self.running)]
            more = f" and {len(under_way) - _NAMED} more" if len(under_way) > _NAMED else ""
            minutes = (time.monotonic() - self._start) / 60
            ended = f"{len(self.rows)} of {self._total} ended"
            self._tell(f"search: after {minutes:.0f} min: {ended}, running: {', '.join(under_way[:_NAMED])}{more}")

    def _epoch(self, trial: int) -> str:
        return f"{min(self._epochs_done.get(trial, 0) + 1, self._epochs[trial])} of {self._epochs[trial]}"

    def _tell(self, line: str) -> None:
        logger.info("%s", line)
        self._told = time.monotonic()

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver, when an attempt has failed and the trial is tried again."""
        why = reason_of(_last_error(trial))
        logger.info("search: an attempt of trial %d failed (%s); trying again", trial.config["trial"], why)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver, when a trial is not tried again."""
        self.running.discard(trial.config["trial"])
        self.failed[trial.config["trial"]] = _last_error(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        self.running.discard(trial.config["trial"])
        if trial.last_result.get("crowded"):
            self.crowded.add(trial.config["trial"])
        elif row := trial.last_result.get("row"):
            self.tell(IngredientRecord.model_validate_json(row))

    def tell(self, row: IngredientRecord) -> None:
        """Log the line of an ended trial."""
        if len(self.rows) == self._resumed:
            for line in self._table.head(cost_unit([row])):
                logger.info("%s", line)
        self.rows.append(row)
        self._measure()
        seconds = self._seconds_left()
        left = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
        line = self._table.row(row, self._best_score(), f"{len(self.rows)}/{self._total}", left)
        self._tell(f"{line}  {row.reason}" if row.reason else line)

    def _best_score(self) -> float | None:
        return max((row.val_score for row in self.rows if row.val_score is not None), default=None)

    def _seconds_left(self) -> float:
        """At the pace of the trials that ended in this call, of which there is one at least."""
        return (time.monotonic() - self._start) / (len(self.rows) - self._resumed) * (self._total - len(self.rows))

    def _measure(self) -> None:
        show_trials(
            self._sweep,
            self.rows,
            running=len(self.running),
            waiting=max(self._total - len(self.rows) - len(self.running), 0),
            seconds_left=self._seconds_left() if len(self.rows) > self._resumed else None,
        )


def _last_error(trial: Any) -> str:
    # Tune writes all errors of a trial into one file, each below a heading.
    return Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]


def reason_of(error: object) -> str:
    """The first line of the innermost exception in a traceback of Ray's, else the last line; not too long for a tag."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    said = [line for line in lines[frames[-1] :] if not line[0].isspace()] if frames else lines[-1:]
    return next(iter(said or lines[-1:]), type(error).__name__).strip()[:500]
