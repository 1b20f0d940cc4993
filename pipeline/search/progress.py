"""How a sweep gets on: a line as trials begin, a row as one ends, a line each minute, and gauges for Prometheus."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from pipeline.gauges import show_trials
from pipeline.records import Hyperparameters, IngredientRecord, cost_unit
from pipeline.search.progress_table import ProgressTable

logger = logging.getLogger(__name__)

_EACH = 60.0  # seconds, in which the trials that run are told once
_NAMED = 8  # so many of them by name


class Progress(tune.Callback):  # type: ignore[misc]
    """Tells of the trials of ``sweep``; ``trials`` are all that it has, by index, ``recorded`` those of earlier calls.

    ``rows`` are all that ended, ``running`` the indices of those under way, and ``failed`` has by its index what Ray
    said of the last attempt of a trial that is not tried again, ``crowded`` are those whose GPU had too little memory
    for them and their neighbours. ``is_ending`` says whether no more of them begin.
    """

    def __init__(
        self,
        recorded: Sequence[IngredientRecord],
        trials: Mapping[int, Hyperparameters],
        sweep: str,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self.rows, self._resumed, self._total, self._sweep = list(recorded), len(recorded), len(trials), sweep
        self._is_ending = is_ending
        self._table = ProgressTable([hyper.given for hyper in trials.values()])
        self._epochs = {index: hyper.epochs for index, hyper in trials.items()}
        self.running: set[int] = set()
        self.failed: dict[int, str] = {}
        self.crowded: set[int] = set()
        self._epochs_done: dict[int, int] = {}
        self._epochs_before: dict[int, int] = {}  # of `_epochs_done`, those of earlier calls
        self._begun: list[int] = []  # not told yet
        self._again: set[int] = set()  # of `running`, those that wait for room to be tried again
        self._start = self._told = time.monotonic()
        self._measure()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        index = trial.config["trial"]
        self.running.add(index)
        self._epochs[index] = trial.config.get("epochs", self._epochs[index])
        self._again.discard(index)
        self._begun.append(index)
        self._measure()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Called by Tune in the driver, after every epoch."""
        if "epoch" in result:
            self._epochs_done[trial.config["trial"]] = result["epoch"]
            self._epochs_before.setdefault(trial.config["trial"], result["epoch"] - 1)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in the driver, several times a second, whether anything happened or not."""
        if self._begun:
            one = len(self._begun) == 1
            line = "search: trial %s begins" if one else "search: trials %s begin"
            logger.info(line, _named(self._begun))
            self._begun.clear()
        if self.running and time.monotonic() - self._told > _EACH:
            self._told = time.monotonic()
            under_way = [f"{trial} (epoch {self._epoch(trial)})" for trial in sorted(self.running - self._again)]
            waiting = f", to be tried again: {_named(sorted(self._again))}" if self._again else ""
            self._measure()
            seconds = self._seconds_left()
            left = "" if seconds is None else f", {_duration(seconds)} left"
            ended, minutes = f"{len(self.rows)} of {self._total} ended{left}", (self._told - self._start) / 60
            running = f"running: {_named(under_way) or 'none'}{waiting}"
            logger.info("search: after %.0f min: %s, %s", minutes, ended, running)

    def _epoch(self, trial: int) -> str:
        return f"{min(self._epochs_done.get(trial, 0) + 1, self._epochs[trial])} of {self._epochs[trial]}"

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver, when an attempt has failed and the trial is tried again."""
        why = reason_of(_last_error(trial))
        self._again.add(trial.config["trial"])
        logger.info("search: an attempt of trial %d failed (%s); trying again", trial.config["trial"], why)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver, when a trial is not tried again."""
        self._ended(trial.config["trial"])
        self.failed[trial.config["trial"]] = _last_error(trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        self._ended(trial.config["trial"])
        if trial.last_result.get("crowded"):
            self.crowded.add(trial.config["trial"])
        elif row := trial.last_result.get("row"):
            self.tell(IngredientRecord.model_validate_json(row))

    def _ended(self, index: int) -> None:
        self.running.discard(index)
        self._again.discard(index)

    def tell(self, row: IngredientRecord) -> None:
        """Log the line of an ended trial."""
        if len(self.rows) == self._resumed:
            for line in self._table.head(cost_unit([row])):
                logger.info("%s", line)
        self.rows.append(row)
        self._measure()
        seconds = self._seconds_left()
        left = "-" if seconds is None else _duration(seconds)
        line = self._table.row(row, self._best_score(), f"{len(self.rows)}/{self._total}", left)
        logger.info("%s", f"{line}  {row.reason}" if row.reason else line)

    def _best_score(self) -> float | None:
        return max((row.val_score for row in self.rows if row.val_score is not None), default=None)

    def _seconds_left(self) -> float | None:
        """At the pace of this call, in epochs, of which an ended trial has done all; None before the first of them."""
        done = dict.fromkeys(self._epochs, 0) | self._epochs_done
        done |= {row.trial_index: self._epochs[row.trial_index] for row in self.rows}
        before = self._epochs_before | {row.trial_index: done[row.trial_index] for row in self.rows[: self._resumed]}
        so_far = sum(done.values()) - sum(before.values())
        if so_far <= 0:
            return None
        to_come = self.running if self._is_ending() else done
        left = sum(self._epochs[trial] - done[trial] for trial in to_come)
        return (time.monotonic() - self._start) / so_far * left

    def _measure(self) -> None:
        waiting = 0 if self._is_ending() else self._total - len(self.rows) - len(self.running)
        show_trials(
            self._sweep,
            self.rows,
            running=len(self.running),
            waiting=max(waiting, 0),
            seconds_left=self._seconds_left(),
        )


def _named(trials: Sequence[object]) -> str:
    """The first of them by name, of very many the number of the others."""
    more = f" and {len(trials) - _NAMED} more" if len(trials) > _NAMED else ""
    return ", ".join(map(str, trials[:_NAMED])) + more


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _last_error(trial: Any) -> str:
    # Tune writes all errors of a trial into one file, each below a heading.
    return Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure # ")[2]


def reason_of(error: object) -> str:
    """The first line of the innermost exception in a traceback of Ray's, else the last line; not too long for a tag."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    said = [line for line in lines[frames[-1] :] if not line[0].isspace()] if frames else lines[-1:]
    return next(iter(said or lines[-1:]), type(error).__name__).strip()[:500]
