"""What MLflow's UI offers under 'Views' of an experiment: the soups of a sweep by score, its trials, its cost curve.

A view is a tag of the experiment: a name, and what the page of runs is to show, as JSON. The names of columns and
charts are those of MLflow's own page, which leaves out what it does not know. `describe` puts links to the views above
the list of runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.records import Hyperparameters

if TYPE_CHECKING:
    from pipeline.registry.client import MlflowClient
    from pipeline.registry.sweeps import Sweep

_VIEW = "mlflow.sharedViewState."
# The box to tick a run and its name, with their widths in pixels: an order of columns names all that come first.
_FIRST = {"1": 40, "attributes.`Run Name`": 180}
_SOUPS, _COST, _TRIALS = "soups", "cost", "trials"


def offer_views(client: MlflowClient, sweep: Sweep) -> None:
    """Point the views of the experiment at this sweep; those that are stay as they are, as people made them."""
    tags = client.get_experiment(sweep.experiment_id).tags
    for key, value in _views(sweep):
        if sweep.run_id not in tags.get(_VIEW + key, ""):
            client.set_experiment_tag(sweep.experiment_id, _VIEW + key, value)


def links(experiment_id: str) -> str:
    """The views as Markdown, for a page of MLflow's UI."""
    page = f"#/experiments/{experiment_id}/runs?workflowType=machine_learning"  # not of a chat bot
    modes = {_SOUPS: "", _COST: "&compareRunsMode=CHART", _TRIALS: ""}
    return " · ".join(f"[{key}]({page}&viewStateShareKey={key}{mode})" for key, mode in modes.items())


def _views(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """The tags by key: name, time, and the state of the page."""
    test, select, val = map(sweep.deciding_metric, ("test", "select", "val"))
    measures = [test, select, val, "num_selected", "construction_seconds"]
    yield _SOUPS, _view("Soups by score", _runs(sweep, "soup", select, _columns("metrics", measures)))
    trial = [*_columns("metrics", [val, "gpu_hours"]), *_columns("params", list(Hyperparameters.model_fields))]
    yield _TRIALS, _view("Trials", _runs(sweep, "trial", val, trial))
    curves = _runs(sweep, "cost-accuracy", test, _columns("metrics", [test, "gpu_hours"]))
    charts = {f"{split}-by-cost": sweep.deciding_metric(split) for split in ("test", "select")}
    section = {"uuid": "cost", "name": "Cost against accuracy", "display": True, "columns": 2, "cardHeight": 420}
    shown = [_by_cost(uuid, metric, "cost") for uuid, metric in charts.items()]
    yield _COST, _view("Cost curve", {**curves, "compareRunCharts": shown, "compareRunSections": [section]})


def _view(name: str, state: Mapping[str, Any]) -> str:
    return json.dumps({"name": name, "createdAt": int(1000 * time.time()), "state": json.dumps(state)})


def _runs(sweep: Sweep, role: str, best_first: str, columns: Sequence[str]) -> dict[str, Any]:
    """The sweep's runs of a role in a flat list, those that others took the place of left out."""
    return {
        "searchFilter": f"tags.role = '{role}' and tags.`mlflow.parentRunId` = '{sweep.run_id}'",
        "orderByKey": _column("metrics", best_first),
        "orderByAsc": False,
        "selectedColumns": list(columns),
        "columnOrder": [*_FIRST, *columns],
        "columnWidths": _FIRST,
    }


def _columns(kind: str, names: Sequence[str]) -> list[str]:
    return [_column(kind, name) for name in names]


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"


def _by_cost(uuid: str, metric: str, section: str) -> dict[str, Any]:
    """A line a run over what the trials had cost by then."""
    return {
        "uuid": uuid,
        "type": "LINE",
        "metricSectionId": section,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": "gpu_hours",
        "useGlobalXaxisKey": False,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": False,
        "ignoreOutliers": False,
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
    }
