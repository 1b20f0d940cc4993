"""What a run shows of itself to Prometheus: gauges, which Ray's exporter on every node serves as ``ray_NAME``.

They are set in the driver alone. Each has the label ``sweep``, the name of the run. Accuracies have ``split`` too:
``fit``, on which soups learn and the best trial is the best; ``select``, by which to choose; ``test``, to report alone.
Where another metric than accuracy decides (`data.metric`), they are the scores by that.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence
from typing import get_args

import ray
from ray.util.metrics import Gauge

from pipeline.records import IngredientRecord, Record, SoupRecord, TrialOutcome, costs, score

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {  # what is said of each, and its labels
    "trials": (
        "Trials by status: as they ended, or running, or waiting; failed and rejected ones have no ingredient.",
        ("sweep", "status"),
    ),
    "sweep_gpu_hours": (
        "What the trials that ended cost, by unit: 'GPU hours', and 'CPU core hours' of those on none; never add them.",
        ("sweep", "unit"),
    ),
    "seconds_left": (
        "Until all trials have ended, at the pace of the epochs since the search began or went on.",
        ("sweep",),
    ),
    "best_trial_accuracy": (
        "Accuracy, or score by data.metric, of the trial that is the best on fit so far.",
        ("sweep", "split"),
    ),
    "soup_accuracy": (
        "Accuracy, or score by data.metric, of the last soup that was made by the method.",
        ("sweep", "method", "split"),
    ),
}
_SPLITS = {"fit": "val", "select": "select", "test": "test"}  # as in the records
_STATUSES: tuple[str, ...] = get_args(TrialOutcome.model_fields["status"].annotation)

# Ray exports a gauge once after it was set, and its agents forget it two exports later (of 10 s; of 1 s at least). What
# is to stay while a trial or a soup takes its time is therefore set again and again.
_REPEAT_SECONDS = 1.0
_shown: dict[tuple[str, tuple[str, ...]], float] = {}  # by name and values of the labels
_lock = threading.Lock()  # of what is shown


def show_trials(
    sweep: str, rows: Sequence[IngredientRecord], *, running: int, waiting: int, seconds_left: float | None
) -> None:
    """Show how a sweep gets on: ``rows`` are the trials that ended; None: how long it will take is not known yet."""
    counts = {status: sum(row.status == status for row in rows) for status in _STATUSES}
    for status, count in {**counts, "running": running, "waiting": waiting}.items():
        _show("trials", count, sweep, status)
    for unit, hours in costs(rows).items():
        _show("sweep_gpu_hours", hours, sweep, unit)
    if seconds_left is not None:
        _show("seconds_left", seconds_left, sweep)
    scores = [(row.val_score, -row.trial_index, row) for row in rows if row.val_score is not None]
    if scores:
        _show_scores("best_trial_accuracy", max(scores, key=lambda scored: scored[:2])[2], sweep)


def show_soup(sweep: str, method: str, soup: SoupRecord) -> None:
    """Show a soup in place of the one that the method made before."""
    _show_scores("soup_accuracy", soup, sweep, method)


def _show_scores(name: str, row: Record, *labels: str) -> None:
    for split, column in _SPLITS.items():
        if (value := score(row, column)) is not None:
            _show(name, value, *labels, split)


def _show(name: str, value: float, *labels: str) -> None:
    """Set a gauge and keep it set for as long as this process is on a cluster; without one nobody could look."""
    if not ray.is_initialized():
        return
    with _lock:
        if not _shown:
            threading.Thread(target=_repeat, daemon=True).start()
        _shown[name, labels] = value
    _set(name, value, labels)


def _repeat() -> None:
    while ray.is_initialized():
        time.sleep(_REPEAT_SECONDS)
        with _lock:
            for (name, labels), value in _shown.items():
                _set(name, value, labels)
    with _lock:
        _shown.clear()


def _set(name: str, value: float, labels: Sequence[str]) -> None:
    _gauge(name).set(value, dict(zip(GAUGES[name][1], labels, strict=True)))


@functools.cache
def _gauge(name: str) -> Gauge:
    return Gauge(name, *GAUGES[name])
