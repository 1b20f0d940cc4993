"""The MLflow run that a sweep's trials and soups are nested below."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run

from pipeline.errors import RegistryError
from pipeline.records import RECORDS_VERSION, CostRecord, SplitRecord
from pipeline.records.folder import RunFolder
from pipeline.registry.client import MlflowClient, MlflowException, as_tags, connect, redact

_PATIENCE = 600.0  # seconds; a trial's hours are worth more
_SETTINGS, _FIGURES = RunFolder(Path()).settings.name, RunFolder(Path()).figures.name
_VERSION = "records_version"  # a tag of the sweep's run
_DIGEST_LENGTH = 36  # MLflow's limit


@dataclass(frozen=True)
class Sweep:
    """Where everything of one sweep is recorded. Picklable; a worker gets its own client from ``client()``.

    ``origin`` (seed, commit, versions of libraries, hashes of the splits) becomes tags of every version.
    """

    tracking_uri: str
    name: str
    sweep_id: str
    experiment_id: str
    run_id: str
    origin: Mapping[str, str]

    @property
    def ingredient_model(self) -> str:
        """Name of the registered model whose versions are ingredients."""
        return f"{self.name}-ingredient"

    @property
    def soup_model(self) -> str:
        """Name of the registered model whose versions are soups."""
        return f"{self.name}-soup"

    def client(self, patience: float | None = None) -> MlflowClient:
        """A connection from this process; a store that is away is waited for, ``patience`` or ten minutes."""
        return connect(self.tracking_uri, _PATIENCE if patience is None else patience)

    def child_run(self, client: MlflowClient, role: str, key: str, run_name: str, seconds: float = 0) -> str:
        """Id of the nested run for ``key``, made on the first call: a repeated or resumed stage finds it again.

        ``seconds`` is how long ago that which it records began.
        """
        runs = client.search_runs(
            [self.experiment_id],
            f"tags.sweep_id = '{self.sweep_id}' and tags.role = '{role}' and tags.key = '{key}'",
            max_results=1,
            order_by=["attributes.start_time ASC"],
        )
        if runs:
            return str(runs[0].info.run_id)
        tags = {"sweep_id": self.sweep_id, "role": role, "key": key, "mlflow.parentRunId": self.run_id}
        start = int(1000 * (time.time() - seconds))
        return str(client.create_run(self.experiment_id, start, tags, run_name).info.run_id)


def open_sweep(tracking_uri: str, name: str, sweep_id: str, artifacts: Path | None, origin: Mapping[str, str]) -> Sweep:
    """The sweep's experiment, registered models and parent run, made where they are missing.

    ``artifacts`` is where a store without a server keeps the files of a new experiment. ``origin``: see `Sweep`.
    """
    client = connect(tracking_uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None if artifacts is None else (artifacts / name).as_uri()
        experiment_id = client.create_experiment(name, artifact_location=location)
    else:
        experiment_id = experiment.experiment_id
    for model, description in _descriptions(name).items():
        try:
            client.get_registered_model(model)
        except MlflowException:
            client.create_registered_model(model, description=description)
    runs = client.search_runs([experiment_id], f"tags.sweep_id = '{sweep_id}' and tags.role = 'sweep'", max_results=1)
    if runs:
        _check_version(runs[0], name)
        run_id = runs[0].info.run_id
    else:
        tags = {**origin, "sweep_id": sweep_id, "role": "sweep", _VERSION: RECORDS_VERSION}
        run_id = client.create_run(experiment_id, run_name=f"{name} {sweep_id}", tags=as_tags(tags)).info.run_id
    return Sweep(tracking_uri, name, sweep_id, str(experiment_id), str(run_id), dict(origin))


def _descriptions(name: str) -> dict[str, str]:
    return {
        f"{name}-ingredient": f"A version for each finished trial of `{name}`, and the starting point that they share.",
        f"{name}-soup": f"Soups of `{name}-ingredient`: an alias for each method, and `champion`.",
    }


def find_sweep(tracking_uri: str, name: str) -> Sweep:
    """The latest sweep of the run ``name``; raises RegistryError where there is none."""
    client = connect(tracking_uri)
    experiment = client.get_experiment_by_name(name)
    runs: list[Run] = []
    if experiment is not None:
        ids = [experiment.experiment_id]
        runs = client.search_runs(ids, "tags.role = 'sweep'", max_results=1, order_by=["attributes.start_time DESC"])
    if experiment is None or not runs:
        names = [other.name for other in client.search_experiments() if other.name != "Default"]
        contents = f"there are: {', '.join(names)}" if names else "it is empty"
        raise RegistryError(f"the registry {redact(tracking_uri)} has no run '{name}'; {contents}")
    run = runs[0]
    _check_version(run, name)
    return Sweep(
        tracking_uri,
        name,
        run.data.tags["sweep_id"],
        str(experiment.experiment_id),
        str(run.info.run_id),
        run.data.tags,
    )


def _check_version(run: Run, name: str) -> None:
    """Raises RegistryError for a sweep that a newer program recorded; older ones (1 said none) are read as they are."""
    version = run.data.tags.get(_VERSION, "1")
    if not version.isdigit() or int(version) > RECORDS_VERSION:
        raise RegistryError(
            f"the sweep of run '{name}' holds records of version {version}, and this program knows {RECORDS_VERSION}; "
            "use the newer program that recorded it"
        )


def log_datasets(sweep: Sweep, source: str, splits: Sequence[SplitRecord]) -> None:
    """Show the splits as data sets that went into the sweep's run; a second call changes nothing."""
    client = sweep.client()
    if client.get_run(sweep.run_id).inputs.dataset_inputs:
        return
    inputs = []
    for split in splits:
        dataset = Dataset(
            name=f"{sweep.name} {split.name}",
            digest=split.indices_sha256[:_DIGEST_LENGTH],
            source_type="pipeline.data",
            source=json.dumps({"source": source, "indices_sha256": split.indices_sha256}),
            profile=json.dumps({"num_rows": split.size}),
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", split.name)]))
    client.log_inputs(sweep.run_id, inputs)


def describe(sweep: Sweep, table: str) -> None:
    """Make the table of methods (plain text) the description of the sweep's run and of the soup model."""
    client = sweep.client()
    text = f"```\n{table}\n```"
    client.set_tag(sweep.run_id, "mlflow.note.content", text)
    client.update_registered_model(sweep.soup_model, f"{_descriptions(sweep.name)[sweep.soup_model]}\n\n{text}")


def log_settings(sweep: Sweep, path: Path) -> None:
    """Keep the settings with the sweep's run."""
    sweep.client().log_artifact(sweep.run_id, str(path))


def fetch_settings(sweep: Sweep, folder: Path) -> Path:
    """A local copy of the settings of the sweep, ``config.yaml``; raises RegistryError."""
    try:
        return Path(sweep.client().download_artifacts(sweep.run_id, _SETTINGS, str(folder)))
    except (MlflowException, OSError) as error:
        reason = redact(sweep.tracking_uri, str(error))
        raise RegistryError(f"the settings of run '{sweep.name}' cannot be read ({reason})") from error


def log_costs(sweep: Sweep, costs: Sequence[CostRecord]) -> None:
    """Log the cost curve in search order: a nested run per method, step = number of ingredients, ``gpu_hours`` too."""
    client = sweep.client()
    costs = [row for row in costs if row.order_seed is None]
    for method in dict.fromkeys(row.method for row in costs):
        run_id = sweep.child_run(client, "cost-accuracy", method, f"cost-accuracy {method}")
        metrics = [
            Metric(key, value, timestamp=row.num_ingredients, step=row.num_ingredients)
            for row in costs
            if row.method == method
            for key in ("val_accuracy", "select_accuracy", "test_accuracy", "gpu_hours")
            if (value := getattr(row, key)) is not None
        ]
        client.log_batch(run_id, metrics=metrics)
        client.set_terminated(run_id)


def finish_sweep(
    sweep: Sweep, files: Iterable[Path], tags: Mapping[str, str], metrics: Mapping[str, float | None]
) -> None:
    """Keep ``files`` (report, figures, tables) and what came out with the sweep's run, and mark it as finished."""
    client = sweep.client()
    now = int(1000 * time.time())
    measured = [Metric(key, value, timestamp=now, step=0) for key, value in metrics.items() if value is not None]
    client.log_batch(sweep.run_id, metrics=measured)
    for file in files:
        client.log_artifact(sweep.run_id, str(file), _FIGURES if file.parent.name == _FIGURES else None)
    for key, value in as_tags(tags).items():
        client.set_tag(sweep.run_id, key, value)
    client.set_terminated(sweep.run_id)
