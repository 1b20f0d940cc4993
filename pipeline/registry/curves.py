"""The cost curve in search order, as MLflow runs: one per method, which grows while the sweep runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from mlflow.entities import Metric, Run

from pipeline.records import SCORES, CostRecord
from pipeline.registry.client import MlflowClient
from pipeline.registry.sweeps import RUNNING, Sweep

_POINTS = "points"  # a tag of the run of a curve: a digest of each point that it has
_SHORT = 8  # letters of the digest of a point: a tag takes 8,000
_BATCH = 500  # metrics; MLflow takes 1,000
_SCORED = ("val_accuracy", "select_accuracy", "test_accuracy", *SCORES)
_OF_A_POINT = (*_SCORED, "gpu_hours", "select_gain_low", "select_gain_high")


def log_costs(
    sweep: Sweep, start: Mapping[str, float], costs: Sequence[CostRecord], *, is_complete: bool = True
) -> None:
    """Log the cost curve in search order: a nested run per method, step = number of ingredients, ``gpu_hours`` too.

    ``start`` are the figures of theta0, the point of no ingredients and no hours; none where they are not known. A
    curve that grew gets the points that it lacks, and ends where it ``is_complete``. MLflow keeps every value that was
    ever logged at a step, so another curve of a method is another run, and the earlier one is marked (see
    `Sweep.supersede_others`). The same curve again changes nothing.
    """
    client, current = sweep.client(), []
    costs = [row for row in costs if row.order_seed is None]
    runs = sweep.runs(client, "tags.role = 'cost-accuracy'")
    for method in dict.fromkeys(row.method for row in costs):
        points = [{**_figures(sweep, start), "gpu_hours": 0.0}] if any(key in start for key in _SCORED) else []
        steps = [0] * len(points)
        for row in costs:
            if row.method == method:
                points.append(_figures(sweep, row.model_dump()))
                steps.append(row.num_ingredients)
        digests = [
            hashlib.sha256(json.dumps([step, point]).encode()).hexdigest()[:_SHORT]
            for step, point in zip(steps, points, strict=True)
        ]
        run_id, logged = _curve_run(sweep, client, runs, method, digests)
        metrics = [
            Metric(key, value, step, step)  # as its time too: written twice it is one
            for step, point in zip(steps[logged:], points[logged:], strict=True)
            for key, value in point.items()
        ]
        if metrics:
            for first in range(0, len(metrics), _BATCH):
                client.log_batch(run_id, metrics=metrics[first : first + _BATCH])
            client.set_tag(run_id, _POINTS, json.dumps(digests))
        status = "FINISHED" if is_complete else RUNNING
        if client.get_run(run_id).info.status != status:
            client.update_run(run_id, status)
        current.append(run_id)
    sweep.supersede_others("cost-accuracy", current)


def _figures(sweep: Sweep, values: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a point of a curve, of the columns that have a value."""
    return {sweep.metric(key): float(values[key]) for key in _OF_A_POINT if values.get(key) is not None}


def _curve_run(
    sweep: Sweep, client: MlflowClient, runs: Sequence[Run], method: str, digests: Sequence[str]
) -> tuple[str, int]:
    """The run of a curve whose points have these ``digests``, and how many of them it has: a new one has none."""
    title = f"{method}: cost curve"
    for run in runs:
        key = run.data.tags.get("key", "")
        logged = _logged_points(run)
        if key.startswith(f"{method}:") and logged and logged == list(digests[: len(logged)]):
            return sweep.child_run(client, "cost-accuracy", key, title), len(logged)
    # Named by what it begins with, which others have gone on from another way.
    whole, names = hashlib.sha256("".join(digests).encode()).hexdigest(), {run.data.tags.get("key") for run in runs}
    key = next(key for number in count(1) if (key := f"{method}:{whole}:{number}") not in names)
    return sweep.child_run(client, "cost-accuracy", key, title), 0


def _logged_points(run: Run) -> list[str]:
    try:
        return list(json.loads(run.data.tags.get(_POINTS, "[]")))
    except (ValueError, TypeError):  # people wrote something else there
        return []
