"""The MLflow run that a sweep's trials and soups are nested below.

What is ours carries the tag ``sweep_id``; what lacks it is another's and left alone. People delete, rename and re-tag
things in MLflow's UI, so all that is looked for here is looked for in the bin too, and taken out of it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Run, ViewType
from mlflow.entities.model_registry import ModelVersion

from pipeline.errors import RegistryError
from pipeline.records import RECORDS_VERSION, SplitRecord
from pipeline.records.folder import RunFolder
from pipeline.registry.client import MlflowClient, MlflowException, as_tags, connect, redact
from pipeline.registry.views import offer_views

logger = logging.getLogger(__name__)

_SETTINGS, _FIGURES = RunFolder(Path()).settings.name, RunFolder(Path()).figures.name
_VERSION = "records_version"  # a tag of the sweep's run
_NAME = "name"  # a tag of the sweep's run: the experiment may be renamed
_PARENT = "mlflow.parentRunId"
CHAMPION = "champion"  # an alias, and a tag of the sweep's run
METRIC = "metric"  # a tag of the versions, where it is not accuracy that decides
SUPERSEDED = "superseded"  # a tag, the role of the run that such runs are nested below, and a part of their names
_SUFFIX = f" ({SUPERSEDED})"
_DIGEST_LENGTH = 36  # MLflow's limit
RUNNING = "RUNNING"  # MLflow's
_STOPPED = "stopped"  # a tag of the sweep's run: why it was ended before its last trial


@dataclass(frozen=True)
class Sweep:
    """Where everything of one sweep is recorded. Picklable; a worker gets its own client from ``client()``.

    ``origin`` (seed, commit, versions of libraries, hashes of the splits, the metric where it is not accuracy) becomes
    tags of every version. A store that is away is waited for ``patience`` seconds.
    """

    tracking_uri: str
    name: str
    sweep_id: str
    experiment_id: str
    run_id: str
    origin: Mapping[str, str]
    patience: float = field(default=600.0, kw_only=True)  # a trial's hours are worth more

    @property
    def ingredient_model(self) -> str:
        """Name of the registered model whose versions are ingredients."""
        return f"{self.name}-ingredient"

    @property
    def soup_model(self) -> str:
        """Name of the registered model whose versions are soups."""
        return f"{self.name}-soup"

    def metric(self, column: str) -> str:
        """What a column of a record is called among MLflow's metrics: of ``val_score`` say ``val_macro_f1``."""
        split = column.removesuffix("_score")
        return column if split == column else f"{split}_{self.origin.get(METRIC, 'score')}"

    def deciding_metric(self, split: str) -> str:
        """Name among MLflow's metrics of what decides, on a split: ``val_accuracy``, ``val_macro_f1``."""
        return f"{split}_{self.origin.get(METRIC, 'accuracy')}"

    def client(self, patience: float | None = None) -> MlflowClient:
        """A connection from this process; a store that is away is waited for, ``patience`` or that of the sweep."""
        return connect(self.tracking_uri, self.patience if patience is None else patience)

    def runs(self, client: MlflowClient, condition: str) -> list[Run]:
        """The sweep's runs that meet a ``condition`` of MLflow's: those in the bin last, of both the oldest first."""
        condition = f"tags.sweep_id = '{self.sweep_id}' and {condition}"
        return sorted(search(client, [self.experiment_id], condition), key=is_deleted)

    def child_run(self, client: MlflowClient, role: str, key: str, run_name: str, seconds: float = 0) -> str:
        """Id of the nested run for ``key``, made on the first call: a repeated or resumed stage finds it again.

        One that was deleted by hand is taken out of the bin. ``seconds`` is how long ago that which it records began.
        """
        if runs := self.runs(client, f"tags.role = '{role}' and tags.key = '{key}'"):
            run_id = str(runs[0].info.run_id)
            if is_deleted(runs[0]):
                client.restore_run(run_id)
                if SUPERSEDED not in runs[0].data.tags:
                    client.set_tag(run_id, _PARENT, self.run_id)
            return run_id
        tags = {"sweep_id": self.sweep_id, "role": role, "key": key, _PARENT: self.run_id}
        start = int(1000 * (time.time() - seconds))
        try:
            run = client.create_run(self.experiment_id, start, tags, run_name)
        except MlflowException:
            if not _reopen(client, self.experiment_id, self.sweep_id):
                raise
            run = client.create_run(self.experiment_id, start, tags, run_name)
        return str(run.info.run_id)

    def make_version(self, client: MlflowClient, model: str, source: str, run_id: str, tags: Mapping[str, str]) -> int:
        """A new version of one of our models, which is made again where it was deleted or renamed; its number."""
        try:
            version = client.create_model_version(model, source, run_id, tags=dict(tags), await_creation_for=0)
        except MlflowException:
            if not _make_models(client, self.name):
                raise
            version = client.create_model_version(model, source, run_id, tags=dict(tags), await_creation_for=0)
        return int(version.version)

    def versions(self, client: MlflowClient, model: str, condition: str = "") -> list[ModelVersion]:
        """The sweep's versions of a model that meet a ``condition`` of MLflow's, the oldest first."""
        query = f"name = '{model}' and tag.sweep_id = '{self.sweep_id}'" + (f" and {condition}" if condition else "")
        versions: list[ModelVersion] = []
        token = None
        while True:
            page = client.search_model_versions(query, max_results=200, page_token=token)
            versions += page
            token = page.token
            if not token:
                return sorted(versions, key=lambda version: int(version.version))

    def supersede_others(self, role: str, current: Collection[str]) -> None:
        """Mark the runs of ``role`` that are not ``current`` any more, and nest them below one run, out of the way.

        One that is current again, as its settings have come back, loses the mark.
        """
        client = self.client()
        for run in self.runs(client, f"tags.role = '{role}'"):
            run_id, marked = str(run.info.run_id), SUPERSEDED in run.data.tags
            if is_deleted(run) or marked != (run_id in current):
                continue
            name, below = str(run.info.run_name).removesuffix(_SUFFIX), self.run_id
            if not marked:
                name += _SUFFIX
                below = self.child_run(client, SUPERSEDED, "all", SUPERSEDED)
                client.set_terminated(below)
            client.update_run(run_id, name=name)
            client.set_tag(run_id, _PARENT, below)
            if marked:
                client.delete_tag(run_id, SUPERSEDED)
            else:
                client.set_tag(run_id, SUPERSEDED, "true")

    def is_latest(self) -> bool:
        """Whether no later sweep of the same name is there, whose soups the aliases then belong to."""
        return find_sweep(self.tracking_uri, self.name).sweep_id == self.sweep_id


def is_deleted(run: Run) -> bool:
    """Whether the run is in the bin."""
    return str(run.info.lifecycle_stage) == "deleted"


def is_superseded(run: Run) -> bool:
    """Whether another run took the place of this one."""
    return SUPERSEDED in run.data.tags


def search(client: MlflowClient, ids: Sequence[str], condition: str) -> list[Run]:
    """All runs that meet a ``condition`` of MLflow's, those in the bin too, the oldest first."""
    runs: list[Run] = []
    token = None
    while ids:
        page = client.search_runs(
            list(ids),
            condition,
            run_view_type=ViewType.ALL,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def open_sweep(tracking_uri: str, name: str, sweep_id: str, artifacts: Path | None, origin: Mapping[str, str]) -> Sweep:
    """The sweep's experiment, registered models and parent run, made where they are missing.

    A sweep is known by its id: its experiment may have another name by now, and what is in the bin is taken out of it.
    ``artifacts`` is where a store without a server keeps the files of a new experiment. ``origin``: see `Sweep`.
    """
    client = connect(tracking_uri)
    tags = {**as_tags(origin), "sweep_id": sweep_id, "role": "sweep", _NAME: name}
    run = _parent(client, name, sweep_id)
    if run is None:
        experiment_id = _experiment(client, name, sweep_id, artifacts)
        tags[_VERSION] = str(RECORDS_VERSION)
        run_id = str(client.create_run(experiment_id, run_name=f"{name} {sweep_id}", tags=tags).info.run_id)
        for child in search(client, [experiment_id], f"tags.sweep_id = '{sweep_id}'"):
            if str(child.info.run_id) != run_id and not is_deleted(child) and not is_superseded(child):
                client.set_tag(child.info.run_id, _PARENT, run_id)
    else:
        check_version(run, name)
        experiment_id, run_id = str(run.info.experiment_id), str(run.info.run_id)
        _reopen(client, experiment_id, sweep_id)
        if is_deleted(client.get_run(run_id)):
            client.restore_run(run_id)
            logger.info("MLflow: the run of the sweep, '%s', was deleted by hand; restored", run.info.run_name)
        for key in ("sweep_id", "role", _NAME):
            if run.data.tags.get(key) != tags[key]:
                client.set_tag(run_id, key, tags[key])
    _make_models(client, name)
    sweep = Sweep(tracking_uri, name, sweep_id, experiment_id, run_id, dict(origin))
    offer_views(client, sweep)
    return sweep


def _parent(client: MlflowClient, name: str, sweep_id: str) -> Run | None:
    """The run of a sweep; where its tags were changed, that which the sweep's other runs are nested below."""
    for ids in _experiments(client, name):
        runs = search(client, ids, f"tags.sweep_id = '{sweep_id}'")
        for run in sorted(runs, key=is_deleted):
            if run.data.tags.get("role") == "sweep":
                return run
        for run_id in dict.fromkeys(str(run.data.tags.get(_PARENT)) for run in runs if not is_superseded(run)):
            with contextlib.suppress(MlflowException):
                return client.get_run(run_id)
    return None


def _experiments(client: MlflowClient, name: str) -> Iterator[list[str]]:
    """The experiment ``name``, then all others: people rename them."""
    named = client.get_experiment_by_name(name)
    own = [] if named is None else [str(named.experiment_id)]
    yield own
    yield [one for one in experiment_ids(client, ViewType.ALL) if one not in own]


def experiment_ids(client: MlflowClient, view: int) -> list[str]:
    """All experiments of the store in this ``view`` of MLflow's."""
    ids: list[str] = []
    token = None
    while True:
        page = client.search_experiments(view, max_results=1000, page_token=token)
        ids += [str(one.experiment_id) for one in page]
        token = page.token
        if not token:
            return ids


def _experiment(client: MlflowClient, name: str, sweep_id: str, artifacts: Path | None) -> str:
    """The id of the experiment for a new sweep."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(
            client.create_experiment(name, artifact_location=None if artifacts is None else (artifacts / name).as_uri())
        )
    _reopen(client, experiment.experiment_id, sweep_id)
    return str(experiment.experiment_id)


def _reopen(client: MlflowClient, experiment_id: str, sweep_id: str) -> bool:
    """Take the experiment out of the bin, if it is there, with the runs of this sweep: others stay where they were."""
    experiment = client.get_experiment(experiment_id)
    if experiment.lifecycle_stage != "deleted":
        return False
    client.restore_experiment(experiment_id)
    for run in search(client, [experiment_id], ""):
        if run.data.tags.get("sweep_id") != sweep_id:
            client.delete_run(run.info.run_id)
    logger.info("MLflow: the experiment '%s' was deleted by hand; restored", experiment.name)
    return True


def _make_models(client: MlflowClient, name: str) -> bool:
    """Make those of our two registered models that are not there; returns whether any was missing."""
    missing = False
    for model, description in _descriptions(name).items():
        try:
            client.get_registered_model(model)
        except MlflowException:
            client.create_registered_model(model, description=description)
            missing = True
    return missing


def _descriptions(name: str) -> dict[str, str]:
    return {
        f"{name}-ingredient": f"A version for each finished trial of `{name}`, and the starting point that they share.",
        f"{name}-soup": f"Soups of `{name}-ingredient`: an alias for each method, and `champion`.",
    }


def find_sweep(tracking_uri: str, name: str) -> Sweep:
    """The latest sweep of the run ``name``; raises RegistryError where there is none.

    Nothing is changed. A sweep whose run is in the bin counts only where all are.
    """
    client = connect(tracking_uri)
    conditions = ("tags.role = 'sweep'", f"tags.role = 'sweep' and tags.{_NAME} = '{name}'")
    runs: list[Run] = []
    for ids, condition in zip(_experiments(client, name), conditions, strict=True):
        if runs := search(client, ids, condition):
            break
    else:
        raise RegistryError(f"the registry {redact(tracking_uri)} has no run '{name}'; {_contents(client, name)}")
    run = sorted(runs, key=is_deleted, reverse=True)[-1]  # of those that are not deleted the latest
    check_version(run, name)
    return Sweep(
        tracking_uri,
        name,
        run.data.tags["sweep_id"],
        str(run.info.experiment_id),
        str(run.info.run_id),
        run.data.tags,
    )


def _contents(client: MlflowClient, name: str) -> str:
    """What there is in place of the run ``name``."""
    names = [other.name for other in client.search_experiments() if other.name != "Default"]
    if name in names:
        return (
            f"the experiment '{name}' is there and holds no run of a sweep (deleted for good, or its tags changed): "
            "the command `run` that made it, given again, makes it again"
        )
    return f"there are: {', '.join(names)}" if names else "it is empty"


def sweep_changes(sweep: Sweep) -> list[str]:
    """What of the sweep's own run and experiment is in the bin, a line each."""
    client = sweep.client()
    changes = []
    if client.get_experiment(sweep.experiment_id).lifecycle_stage == "deleted":
        changes.append("its experiment was deleted")
    elif is_deleted(client.get_run(sweep.run_id)):
        changes.append("the run of the sweep was deleted")
    return changes


def check_version(run: Run, name: str) -> None:
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


def log_settings(sweep: Sweep, path: Path) -> None:
    """Keep the settings, or what the run was made with, with the sweep's run."""
    sweep.client().log_artifact(sweep.run_id, str(path))


def fetch_settings(sweep: Sweep, folder: Path) -> Path:
    """A local copy of the settings of the sweep, ``config.yaml``; raises RegistryError."""
    try:
        return Path(sweep.client().download_artifacts(sweep.run_id, _SETTINGS, str(folder)))
    except (MlflowException, OSError) as error:
        reason = redact(sweep.tracking_uri, str(error))
        raise RegistryError(f"the settings of run '{sweep.name}' cannot be read ({reason})") from error


def note_stop(sweep: Sweep, reason: str | None) -> None:
    """Say in the sweep's run why it was ended before its last trial; None: it was not, or goes on."""
    client = sweep.client()
    if reason is not None:
        client.set_tag(sweep.run_id, _STOPPED, reason)
    elif _STOPPED in client.get_run(sweep.run_id).data.tags:
        client.delete_tag(sweep.run_id, _STOPPED)


@contextlib.contextmanager
def under_way(sweep: Sweep) -> Iterator[None]:
    """Inside, the sweep's run is one that runs, afterwards one that has finished, failed, or was killed by hand.

    A process that is killed outright leaves it as running. One that failed does not wait for a store that is away.
    """
    sweep.client().update_run(sweep.run_id, RUNNING)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        try:
            sweep.client(None if status == "FINISHED" else 0).set_terminated(sweep.run_id, status)
        except (RegistryError, MlflowException):
            logger.info("MLflow could not be told, and shows the run of the sweep as running")


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
