"""Ingredients: one run per trial, one version of ``<name>-ingredient`` per finished one."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.entities import Metric, Param, Run
from mlflow.entities.model_registry import ModelVersion
from pydantic import ValidationError

from pipeline.errors import RegistryError
from pipeline.files import file_sha256, patiently, scratch
from pipeline.records import SCORES, EpochRecord, Hyperparameters, IngredientRecord
from pipeline.registry.client import MlflowClient, MlflowException, as_tags, broke_off, local_path
from pipeline.registry.sweeps import SUPERSEDED, Sweep, is_deleted

if TYPE_CHECKING:
    from torch import Tensor

FILE_NAME = "model.safetensors"
# What helps where the weights of an ingredient are gone.
REMEDY = "restore the file, or go on without it (soup.damaged=skip); --fresh trains the whole sweep again"
RECORD = "record"  # the tag that has the whole row
_METRICS = ("val_accuracy", "select_accuracy", "test_accuracy", "gpu_hours", "peak_memory_bytes", "images_seen")


@dataclass(frozen=True)
class IngredientVersion:
    """A version of the ingredient model. ``trial_index`` is None for theta0; ``uri`` names its safetensors file."""

    version: int
    trial_index: int | None
    uri: str
    sha256: str


Call = TypeVar("Call", bound=Callable[..., Any])


def _repeated(call: Call) -> Call:
    """A call of the recorder that is made again where the server went away in the middle of an answer."""

    @wraps(call)
    def again(self: IngredientRecorder, *args: Any, **kwargs: Any) -> Any:
        return patiently(lambda: call(self, *args, **kwargs), self.sweep.patience, broke_off)

    return cast(Call, again)


@dataclass(frozen=True)
class IngredientRecorder:
    """Records trials from the workers that run them; every call may be repeated and has its effect once."""

    sweep: Sweep
    theta0_sha256: str | None
    class_names: tuple[str, ...]

    def begin(self, trial_index: int, hyper: Hyperparameters) -> None:
        """Start the trial's run with its hyperparameters; left to `record` where the store cannot be reached."""
        with contextlib.suppress(RegistryError, MlflowException):
            client, run_id = self._run_of(trial_index, patience=0)
            _log_parameters(client, run_id, hyper.given)

    def log_epochs(self, trial_index: int, epochs: Sequence[EpochRecord]) -> None:
        """Log metrics per epoch, step = epoch. What a store that cannot be reached misses is lost.

        An attempt that begins again at an earlier epoch adds nothing to those that are logged: MLflow would draw both.
        """
        with contextlib.suppress(RegistryError, MlflowException):
            client, run_id = self._run_of(trial_index, patience=0)
            logged = client.get_metric_history(run_id, "train_loss") if epochs else []
            last = max((metric.step for metric in logged), default=0)
            metrics = [
                Metric(key, value, timestamp=int(1000 * time.time()), step=row.epoch)
                for row in epochs
                if row.epoch > last
                for key, value in row.model_dump(exclude={"epoch"}).items()
            ]
            client.log_batch(run_id, metrics=metrics)

    @_repeated
    def upload(self, trial_index: int, state: Mapping[str, Tensor]) -> tuple[str, str]:
        """Log the weights as an artifact of the trial's run; returns the file's URI and SHA-256.

        The weights of a registered version stay as they are: its worker may have died before it could tell Tune.
        """
        client, run_id = self._run_of(trial_index)
        for version in _versions_of(client, self.sweep, f"run_id = '{run_id}'"):
            if "sha256" in version.tags and _is_there(version):
                return version.tags["path"], version.tags["sha256"]
        return self._log(client, run_id, state, {"trial_index": str(trial_index)})

    @_repeated
    def record(self, row: IngredientRecord, **tags: str) -> None:
        """Log the outcome of a trial and, if it finished, register its version, with ``tags`` besides its columns.

        What is registered stands: of several writers of the same trial, or of a repeated call, the first, with the
        highest cost that was counted.
        """
        # Runs and versions are looked for, then made: workers that begin together may both make them. Hence four cases:
        # - Not finished: no version, the run takes the row. A later call with a finished row replaces it.
        # - First writer: our version is the oldest of the trial, and the run takes the row as its tags have it.
        # - Repeated call: a finished row stands, unless ours has a higher cost. If the writer died between version and
        #   row, the version that it left serves. A second one of our run (made by a server that died before it could
        #   answer, say) is deleted.
        # - Another writer won: the oldest version is of another run. Our version and our run are deleted.
        client, run_id = self._run_of(row.trial_index)
        if _stands(row_of(client.get_run(run_id)), row):
            client.set_terminated(run_id, "FINISHED")
            return
        if row.is_ingredient:
            make_version(client, self.sweep, run_id, {**row.model_dump(), **tags, RECORD: row.model_dump_json()})
            versions = _versions_of(client, self.sweep, f"tag.trial_index = '{row.trial_index}'")
            first, *others = [version for version in versions if version.run_id == run_id or _is_there(version)]
            for other in others:
                if other.run_id == run_id:
                    client.delete_model_version(self.sweep.ingredient_model, str(other.version))
            if first.run_id != run_id:
                client.set_tag(run_id, SUPERSEDED, "true")
                client.delete_run(run_id)
                return
            row = _registered(first, row)
        log_row(self.sweep, client, run_id, row, tags)

    @_repeated
    def upload_theta0(self, state: Mapping[str, Tensor], figures: Mapping[str, float]) -> None:
        """Register theta0 as a version tagged ``role=initialization``; its run has the ``figures`` as metrics.

        Where the version is there, nothing is changed.
        """
        client = self.sweep.client()
        run_id = self.sweep.child_run(client, "initialization", "theta0", "theta0")
        for version in _versions_of(client, self.sweep, f"run_id = '{run_id}'"):
            if version.tags.get("role") == "initialization" and _is_there(version):
                return
        uri, sha256 = self._log(client, run_id, state, {})
        tags = {"role": "initialization", "path": uri, "sha256": sha256, "theta0_sha256": self.theta0_sha256}
        for version in _versions_of(client, self.sweep, f"run_id = '{run_id}'"):
            client.delete_model_version(self.sweep.ingredient_model, str(version.version))  # of a file that is gone
        make_version(client, self.sweep, run_id, {**tags, **figures})
        logged = client.get_run(run_id).data.metrics  # MLflow keeps every value that is logged at a step
        values = {self.sweep.metric(column): value for column, value in figures.items()}
        metrics = [Metric(key, value, timestamp=0, step=0) for key, value in values.items() if key not in logged]
        client.log_batch(run_id, metrics=metrics)
        client.set_terminated(run_id)

    def _run_of(self, trial_index: int, patience: float | None = None) -> tuple[MlflowClient, str]:
        """A connection and the id of the trial's run, made on the first call."""
        client = self.sweep.client(patience)
        return client, self.sweep.child_run(client, "trial", str(trial_index), f"trial {trial_index}")

    def _log(
        self, client: MlflowClient, run_id: str, state: Mapping[str, Tensor], metadata: dict[str, str]
    ) -> tuple[str, str]:
        from pipeline.weights import save_weights  # torch is slow to import, and who only reads needs none

        origin = as_tags({"theta0_sha256": self.theta0_sha256})
        metadata = {**metadata, **origin, "class_names": json.dumps(self.class_names)}
        with scratch() as folder:
            path = folder / FILE_NAME
            sha256 = save_weights(state, path, metadata)
            client.log_artifact(run_id, str(path), "ingredient")
        return f"{client.get_run(run_id).info.artifact_uri}/ingredient/{FILE_NAME}", sha256


def read_trials(sweep: Sweep) -> list[IngredientRecord]:
    """The recorded trials of the sweep in search order."""
    return list(trials_by_run(sweep).values())


def trials_by_run(sweep: Sweep) -> dict[str, IngredientRecord]:
    """As `read_trials`, by the id of the run."""
    found: dict[int, tuple[str, IngredientRecord]] = {}
    for run in sweep.runs(sweep.client(), "tags.role = 'trial'"):
        row = row_of(run)  # None: the trial is under way
        if row is not None and not is_deleted(run):
            found.setdefault(row.trial_index, (str(run.info.run_id), row))
    return dict(found[index] for index in sorted(found))


def list_ingredients(sweep: Sweep) -> list[IngredientVersion]:
    """The ingredient versions of the sweep in search order, theta0 first; see `trial_changes` for those of no use."""
    versions: dict[int | None, IngredientVersion] = {}
    for version in sweep.versions(sweep.client(), sweep.ingredient_model):
        tags, index = version.tags, version.tags.get("trial_index", "")
        if not {"path", "sha256"} <= tags.keys() or not (index.isdigit() or tags.get("role") == "initialization"):
            continue
        trial_index = int(index) if index.isdigit() else None
        versions.setdefault(
            trial_index,
            IngredientVersion(
                version=int(version.version), trial_index=trial_index, uri=tags["path"], sha256=tags["sha256"]
            ),
        )
    return sorted(versions.values(), key=lambda version: -1 if version.trial_index is None else version.trial_index)


def fetch_ingredients(versions: Sequence[IngredientVersion], folder: Path) -> list[Path]:
    """Local paths of the versions' files, each checked against its SHA-256.

    A file in a local artifact store is read in place; others are downloaded into ``folder`` once. Raises RegistryError
    that names the version whose file is missing or was changed.
    """
    return [
        fetch_file(version.uri, version.sha256, folder, f"ingredient version {version.version}") for version in versions
    ]


def fetch_intact(
    versions: Sequence[IngredientVersion], folder: Path
) -> tuple[dict[int | None, Path], dict[int | None, RegistryError]]:
    """By trial: the files that can be fetched (see `fetch_ingredients`), and what is wrong with the others."""
    paths: dict[int | None, Path] = {}
    damaged: dict[int | None, RegistryError] = {}
    for version in versions:
        try:
            (paths[version.trial_index],) = fetch_ingredients([version], folder)
        except RegistryError as error:
            damaged[version.trial_index] = error
    return paths, damaged


def fetch_file(uri: str, sha256: str, folder: Path, title: str, remedy: str = REMEDY) -> Path:
    """The local path of one artifact, checked; ``title`` and ``remedy`` in messages; see `fetch_ingredients`."""
    path = local_path(uri)
    if path is None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{sha256}.safetensors"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as partial:
                try:
                    Path(download_artifacts(artifact_uri=uri, dst_path=partial)).replace(path)
                except (MlflowException, OSError) as error:
                    if is_at(uri):  # the store is away, or fails
                        raise
                    raise RegistryError(f"{title}: its file {uri} is missing; {remedy}") from error
    if not path.is_file():
        raise RegistryError(f"{title}: its file {uri} is missing; {remedy}")
    if file_sha256(path) != sha256:
        raise RegistryError(f"{title}: {uri} was changed after it was recorded (SHA-256 differs); {remedy}")
    return path


def make_version(client: MlflowClient, sweep: Sweep, run_id: str, tags: Mapping[str, object]) -> int:
    """The number of the version made from ``run_id``; made unless there is one."""
    if versions := _versions_of(client, sweep, f"run_id = '{run_id}'"):
        return int(versions[0].version)
    all_tags = as_tags({**sweep.origin, **tags, "sweep_id": sweep.sweep_id})
    return sweep.make_version(client, sweep.ingredient_model, f"runs:/{run_id}/ingredient", run_id, all_tags)


def _versions_of(client: MlflowClient, sweep: Sweep, condition: str) -> list[ModelVersion]:
    return sweep.versions(client, sweep.ingredient_model, condition)


def log_row(sweep: Sweep, client: MlflowClient, run_id: str, row: IngredientRecord, tags: Mapping[str, str]) -> None:
    """Show and record the outcome of a trial in its run."""
    _log_parameters(client, run_id, row.hyperparameters)
    values = {name: getattr(row, name) for name in _METRICS}
    values |= {sweep.metric(name): value for name, value in row.scores.items()}
    metrics = [Metric(key, value, timestamp=0, step=0) for key, value in values.items() if value is not None]
    client.log_batch(run_id, metrics=metrics)
    # The tag comes last: a trial counts as recorded once its whole row can be read back.
    for key, value in {**tags, "status": row.status, RECORD: row.model_dump_json()}.items():
        client.set_tag(run_id, key, value)
    client.set_terminated(run_id, {"finished": "FINISHED", "stopped": "KILLED"}.get(row.status, "FAILED"))


def _log_parameters(client: MlflowClient, run_id: str, values: Mapping[str, object]) -> None:
    logged = client.get_run(run_id).data.params  # MLflow refuses to log one again with another value
    unlogged = as_tags({name: value for name, value in values.items() if name not in logged})
    client.log_batch(run_id, params=[Param(name, value) for name, value in unlogged.items()])


def row_of(recorded: Run | ModelVersion) -> IngredientRecord | None:
    """The row that is recorded in a run or a version; None where none is, or people wrote something else there."""
    tags = recorded.data.tags if isinstance(recorded, Run) else recorded.tags
    try:
        return IngredientRecord.model_validate_json(tags.get(RECORD, ""))
    except ValidationError:
        return None


def _is_there(version: ModelVersion) -> bool:
    """Whether the weights of a version are."""
    return "path" in version.tags and is_at(version.tags["path"])


def is_at(uri: str) -> bool:
    """Whether there is such an artifact."""
    path = local_path(uri)
    if path is not None:
        return path.is_file()
    folder, _, name = uri.rpartition("/")
    try:
        return any(Path(item.path).name == name for item in list_artifacts(artifact_uri=folder) or [])
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _stands(earlier: IngredientRecord | None, row: IngredientRecord) -> bool:
    """Whether a trial that is recorded as ``earlier`` stays so in spite of ``row``: it finished, and no cost is new."""
    if earlier is None:
        return False
    return earlier.is_ingredient and (not row.is_ingredient or row.gpu_hours <= earlier.gpu_hours)


def _registered(version: ModelVersion, row: IngredientRecord) -> IngredientRecord:
    """The row of a registered version, with the cost of ``row``, which counts all attempts."""
    names = (*IngredientRecord.model_fields, *SCORES)
    columns = {name: version.tags[name] for name in names if name in version.tags}
    cost = {"gpu_hours": row.gpu_hours, "cpu_core_hours": row.cpu_core_hours, "attempts": row.attempts}
    cost["model_version"] = int(version.version)
    # The same trial has the same hyperparameters, and tags are text.
    return IngredientRecord.model_validate({"theta0_sha256": None, **columns, **cost, **row.hyperparameters})
