"""What the registry says of its sweeps while they run, for those who only look: nothing is written, nothing waited for.

`list_sweeps` is one question for all sweeps; `look` reads one of them, and of one that it has read before only what has
happened since.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Run, ViewType
from pydantic import ValidationError

from pipeline.config.yaml_text import plain_yaml
from pipeline.errors import RegistryError
from pipeline.files import sqlite_path
from pipeline.records import (
    SCORES,
    CostRecord,
    IngredientRecord,
    Scalar,
    cost_unit,
    known_hyperparameters,
    run_page,
)
from pipeline.records.folder import RunFolder
from pipeline.registry.client import MlflowClient, connect, read_only, redact
from pipeline.registry.ingredients import row_of
from pipeline.registry.soups import current_soups
from pipeline.registry.sweeps import RUNNING, Sweep, check_version, experiment_ids, is_deleted, is_superseded, search

# What ends while it is asked for, and clocks of machines that differ (milliseconds).
_OVERLAP = 120_000
_SPLITS = ("val", "select", "test")
_GAINS = ("gain_low", "gain_high", "select_gain_low", "select_gain_high")


@dataclass(frozen=True)
class WatchedSweep(Sweep):
    """A sweep as it is listed. ``metrics`` are those of its run, ``sizes`` the numbers of examples of its splits,
    ``artifacts`` where its files are.

    Times are in milliseconds since 1970; ``ended`` is None while it runs (or where it was killed outright).
    ``unreadable`` says why it cannot be read here, and is empty of one that can.
    """

    status: str
    started: int
    ended: int | None
    metrics: Mapping[str, float]
    sizes: Mapping[str, int]
    artifacts: str
    unreadable: str = ""

    def client(self, patience: float | None = None) -> MlflowClient:
        """A connection from this process to the store that has just listed it; one that is away is not waited for."""
        return MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)

    def page(self, run_id: str) -> str | None:
        """See `run_page`."""
        return run_page(redact(self.tracking_uri), self.experiment_id, run_id)

    @property
    def is_running(self) -> bool:
        """Whether a stage of it runs, as far as the registry knows: one killed outright is not told from it."""
        return self.status == RUNNING


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has no outcome yet; ``train_loss`` is that of its last epoch."""

    run_id: str
    trial_index: int
    started: int
    hyperparameters: Mapping[str, Scalar]
    train_loss: float | None


@dataclass(frozen=True)
class WatchedCurve:
    """The cost curve of a method in search order, as far as it is known; theta0 is the point of no ingredients."""

    run_id: str
    method: str
    metrics: Mapping[str, float]
    points: tuple[CostRecord, ...]


@dataclass(frozen=True)
class WatchedSoup:
    """A method's soup and what decides on each split (``val``, ``select``, ``test``); an ensemble has no version."""

    run_id: str
    method: str
    version: int | None
    scores: Mapping[str, float]
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Look:
    """A sweep as it was read. ``trials`` with an outcome are by run, in search order; ``settings`` are plain values.

    ``labels`` are the display names of the methods, where they are recorded; ``last_end`` is when the last trial ended.
    """

    sweep: WatchedSweep
    trials: Mapping[str, IngredientRecord] = field(default_factory=dict)
    running: tuple[RunningTrial, ...] = ()
    curves: tuple[WatchedCurve, ...] = ()
    soups: tuple[WatchedSoup, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    last_end: int = 0

    @functools.cached_property
    def unit(self) -> str:
        """What its costs count in."""
        return cost_unit(self.trials.values())

    def setting(self, *path: str) -> Any:
        """The value of a setting; None where it, or what it is in, is not there."""
        value: Any = self.settings
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def list_sweeps(tracking_uri: str) -> list[WatchedSweep]:
    """All sweeps of the registry that are not in the bin, the latest first; raises RegistryError."""
    _check_database(tracking_uri)
    client = connect(tracking_uri)
    runs = search(client, experiment_ids(client, ViewType.ACTIVE_ONLY), "tags.role = 'sweep'")
    sweeps = [_listed(tracking_uri, run) for run in runs if not is_deleted(run) and run.data.tags.get("sweep_id")]
    return sorted(sweeps, key=lambda sweep: -sweep.started)


def _check_database(tracking_uri: str) -> None:
    """Raises RegistryError where `connect` would make a SQLite store, or its tables in a file of somebody else."""
    path = sqlite_path(tracking_uri)
    if path is None:
        return
    if not path.exists():
        raise RegistryError(f"--tracking-uri: there is no {path}; give the store of a run")
    with contextlib.suppress(sqlite3.Error), contextlib.closing(read_only(path)) as database:  # `connect` tells why
        if not database.execute("select 1 from sqlite_master where name = 'runs'").fetchall():
            raise RegistryError(f"--tracking-uri: {path} is no store of MLflow; give that of a run")


def _listed(tracking_uri: str, run: Run) -> WatchedSweep:
    tags, info = run.data.tags, run.info
    name, unreadable, sizes = tags.get("name") or str(info.run_name), "", {}
    try:
        check_version(run, name)
    except RegistryError as error:
        unreadable = str(error)
    for given in run.inputs.dataset_inputs if run.inputs else []:
        context = next((tag.value for tag in given.tags if tag.key == "mlflow.data.context"), None)
        rows = _json(given.dataset.profile).get("num_rows")
        if context and isinstance(rows, int):
            sizes[context] = rows
    return WatchedSweep(
        tracking_uri=tracking_uri,
        name=name,
        sweep_id=tags["sweep_id"],
        experiment_id=str(info.experiment_id),
        run_id=str(info.run_id),
        origin=dict(tags),
        status=str(info.status),
        started=int(info.start_time or 0),
        ended=int(info.end_time) if info.end_time and str(info.status) != RUNNING else None,
        metrics=dict(run.data.metrics),
        sizes=sizes,
        artifacts=str(info.artifact_uri),
        unreadable=unreadable,
    )


def _json(text: str | None) -> dict[str, Any]:
    """The object that ``text`` stands for; empty where people wrote something else there."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def look(sweep: WatchedSweep, before: Look | None = None) -> Look:
    """Read a sweep. Raises RegistryError, or what MLflow raises.

    With what was read ``before``, trials that ended long since are taken from there: somebody who deletes one by hand
    is heard of by those who read all anew.
    """
    client = sweep.client()
    trials, running, last_end = _trials(client, sweep, before)
    settings, labels = _documents(client, sweep)
    return Look(
        sweep=sweep,
        trials=trials,
        running=running,
        curves=_curves(client, sweep, () if before is None else before.curves),
        soups=tuple(_soups(sweep)),
        settings=settings,
        labels=labels,
        last_end=last_end,
    )


def _trials(
    client: MlflowClient, sweep: WatchedSweep, before: Look | None
) -> tuple[dict[str, IngredientRecord], tuple[RunningTrial, ...], int]:
    """Those with an outcome, those without, and when the last of the former ended."""
    role, known, last_end = "tags.role = 'trial'", dict[str, IngredientRecord](), 0
    conditions = [role]
    if before is not None and before.last_end:
        known, last_end = dict(before.trials), before.last_end
        since = f"attributes.end_time >= {last_end - _OVERLAP}"
        conditions = [f"{role} and attributes.status = '{RUNNING}'", f"{role} and {since}"]
    running = dict[str, RunningTrial]()
    for run in (run for condition in conditions for run in sweep.runs(client, condition)):
        run_id, row = str(run.info.run_id), row_of(run)
        known.pop(run_id, None)
        running.pop(run_id, None)
        if is_deleted(run) or is_superseded(run):
            continue
        if row is not None:
            known[run_id] = row
            last_end = max(last_end, int(run.info.end_time or 0))
        elif str(run.info.status) == RUNNING and (trial := _running(run)):
            running[run_id] = trial
    first: dict[int, str] = {}
    for run_id, row in known.items():
        first.setdefault(row.trial_index, run_id)
    trials = {first[index]: known[first[index]] for index in sorted(first)}
    ordered = sorted(running.values(), key=lambda trial: trial.trial_index)
    return trials, tuple(trial for trial in ordered if trial.trial_index not in first), last_end


def _running(run: Run) -> RunningTrial | None:
    """None where people changed which trial it is of."""
    index, params = run.data.tags.get("key", ""), run.data.params
    if not index.isdigit():
        return None
    try:
        known = known_hyperparameters(params)
    except ValidationError:
        known = {}
    return RunningTrial(
        str(run.info.run_id),
        int(index),
        int(run.info.start_time or 0),
        {name: known.get(name, value) for name, value in params.items()},
        run.data.metrics.get("train_loss"),
    )


def _curves(client: MlflowClient, sweep: WatchedSweep, before: tuple[WatchedCurve, ...]) -> tuple[WatchedCurve, ...]:
    """The latest curve of each method; one whose last values are as ``before`` has no new point."""
    known, curves = {curve.run_id: curve for curve in before}, dict[str, WatchedCurve]()
    for run in sweep.runs(client, "tags.role = 'cost-accuracy'"):
        method = run.data.tags.get("key", "").partition(":")[0]
        if not method or is_deleted(run) or is_superseded(run):
            continue
        run_id, metrics = str(run.info.run_id), dict(run.data.metrics)
        curve = known.get(run_id)
        if curve is None or curve.metrics != metrics:
            curve = WatchedCurve(run_id, method, metrics, tuple(_points(client, sweep, run_id, method, metrics)))
        curves[method] = curve
    return tuple(curves.values())


def _points(
    client: MlflowClient, sweep: WatchedSweep, run_id: str, method: str, metrics: Mapping[str, float]
) -> Iterator[CostRecord]:
    """The points of a curve by number of ingredients; what is not whole yet, or was changed by hand, is left out."""
    columns = [*(f"{split}_accuracy" for split in _SPLITS), *SCORES, *_GAINS, "gpu_hours", "cpu_core_hours"]
    by_step: dict[int, dict[str, float]] = {}
    for column in columns:
        name = sweep.metric(column)
        if name not in metrics:
            continue
        for value in sorted(client.get_metric_history(run_id, name), key=lambda value: value.timestamp):
            by_step.setdefault(int(value.step), {})[column] = float(value.value)
    for step, values in sorted(by_step.items()):
        try:
            yield CostRecord.model_validate(
                {"select_accuracy": None, **values, "method": method, "num_ingredients": step}
            )
        except ValidationError:
            continue


def _soups(sweep: WatchedSweep) -> Iterator[WatchedSoup]:
    for method, soup in current_soups(sweep).items():
        if is_deleted(soup.run):
            continue
        metrics = dict(soup.run.data.metrics)
        scores = dict[str, float]()
        for split in _SPLITS:
            for name in (sweep.metric(f"{split}_score"), f"{split}_accuracy"):
                if name in metrics:
                    scores.setdefault(split, metrics[name])
        version = None if soup.version is None else int(soup.version.version)
        yield WatchedSoup(soup.run_id, method, version, scores, metrics)


def _documents(client: MlflowClient, sweep: WatchedSweep) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """The settings of the sweep and the labels of its methods; empty where they cannot be read or are not there."""
    folder = RunFolder(Path())
    try:
        there = {item.path for item in client.list_artifacts(sweep.run_id)}
        texts = {
            path: mlflow.artifacts.load_text(f"{sweep.artifacts}/{path}")
            for path in (str(folder.settings), str(folder.run))
            if path in there
        }
        settings = plain_yaml(texts.get(str(folder.settings), ""))
    except Exception:  # a store of artifacts that this machine does not reach raises what it likes
        return {}, {}
    labels = _json(texts.get(str(folder.run))).get("labels")
    return settings if isinstance(settings, dict) else {}, labels if isinstance(labels, dict) else {}
