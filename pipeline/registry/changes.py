"""What people change by hand in MLflow's UI between two calls, found and made as it was recorded.

Ours is what has the tag ``sweep_id`` of the sweep (runs: ``role`` and ``key`` too). Without it a run or a version is
another's, were it once ours: it is never altered. What becomes of that which is ours, and was

- the experiment. Deleted: restored, the runs of other sweeps in it stay deleted. Renamed: it goes by its id.
- the run of the sweep. Deleted: restored; gone for good: made again, with settings, data sets and report. Re-tagged:
  the tags are set again.
- the run of a trial or of theta0. Deleted: restored; gone for good: made again from `ingredients.parquet`, or from what
  its version says. Its row changed: recorded again. Re-tagged so that it is ours no more: left alone, and made again.
- the run of a soup or of a curve. Deleted: restored; gone for good: made again from the run's folder. Re-tagged: as
  above.
- the models NAME-ingredient and NAME-soup. Deleted or renamed: made again, with all versions.
- the version of a trial or of theta0. Deleted: registered again from the file of its run or of the run's folder; where
  the weights are gone too it is named, with the remedy. Re-tagged: the tags are set again.
- the version of a soup. Deleted: registered again from `soups/METHOD.safetensors`; without that file the soup is built
  again. Re-tagged: the tags are set again.
- the files that are served of a soup. Changed, added or missing: made again; changed weights are named.
- the alias of a method, `champion`. Deleted, or moved, to another's version too: set again, by the latest sweep of the
  name, whose they are.
- other runs, versions, aliases, names: left alone by every command.

"Gone for good" is after `mlflow gc`, or with another database. `run` and `import` make things again; `verify` names
what is not as recorded; `export` takes what is there. A trial is trained again neither where its run is gone nor where
its weights are: soups then say so and stop, or go on without it (``soup.damaged=skip``). What other settings superseded
is marked and nested below one run (`Sweep.supersede_others`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion

from pipeline.files import file_sha256, scratch
from pipeline.records import SCORES, IngredientRecord
from pipeline.registry.client import MlflowClient, as_tags
from pipeline.registry.ingredients import (
    FILE_NAME,
    RECORD,
    REMEDY,
    fetch_file,
    is_at,
    log_row,
    make_version,
    row_of,
)
from pipeline.registry.sweeps import Sweep, is_deleted

# Of a version: what soups and people read there. Its cost may grow in the run alone, with a later attempt.
_TAGS = ("trial_index", "path", "sha256", "status", "val_accuracy", "select_accuracy", "test_accuracy", *SCORES)

_PLACE = {"path", "model_version"}  # of a row: another once it was registered again


@dataclass(frozen=True)
class Change:
    """Something that is not as recorded, in a line, and what makes it so again; None where nothing here can."""

    what: str
    undo: Callable[[], object] | None


def trial_changes(sweep: Sweep, known: Sequence[IngredientRecord] = ()) -> list[Change]:
    """What is not as recorded of the trials and theta0, to be undone in this order; ``known`` rows are the truth.

    Without them the runs of the trials are, and the versions where a run is gone.
    """
    client = sweep.client()
    runs: dict[int, Run] = {}
    for run in sweep.runs(client, "tags.role = 'trial'"):
        if (row := row_of(run)) is not None:
            runs.setdefault(row.trial_index, run)
    versions = sweep.versions(client, sweep.ingredient_model)
    rows: dict[int, IngredientRecord] = {}
    for version in versions:
        if (row := row_of(version)) is not None:
            rows[row.trial_index] = row.model_copy(update={"model_version": int(version.version)})
    rows |= {index: row for index, run in runs.items() if (row := row_of(run)) is not None}
    rows |= {row.trial_index: _where_it_is(row, rows.get(row.trial_index)) for row in known}
    changes: list[Change] = []
    for index in sorted(rows):
        changes += _changes_of(sweep, rows[index], runs.get(index), versions)
    origin = next((row.theta0_sha256 for row in rows.values()), None)
    return [*changes, *_theta0_changes(sweep, client, versions, origin)]


def _where_it_is(known: IngredientRecord, recorded: IngredientRecord | None) -> IngredientRecord:
    """A known row with the place that is recorded since: a call may have died before it wrote the table."""
    if recorded is None or recorded.path is None or recorded.sha256 != known.sha256:
        return known
    if recorded.path != known.path and not is_at(recorded.path):
        return known
    return known.model_copy(update={"path": recorded.path, "model_version": recorded.model_version})


def _changes_of(
    sweep: Sweep, row: IngredientRecord, run: Run | None, versions: Sequence[ModelVersion]
) -> Iterator[Change]:
    what = f"trial {row.trial_index}"
    if run is None or is_deleted(run):
        how = "is missing" if run is None else "was deleted"
        yield Change(f"{what}: its run {how}", partial(_restore_run, sweep, row))
    elif (found := row_of(run)) and found.model_dump(exclude=_PLACE) != row.model_dump(exclude=_PLACE):
        undo = partial(log_row, sweep, sweep.client(), str(run.info.run_id), row, {})
        yield Change(f"{what}: what its run says was changed", undo)
    if not row.is_ingredient:
        return
    by_run = [version for version in versions if run is not None and version.run_id == run.info.run_id]
    by_index = [version for version in versions if version.tags.get("trial_index") == str(row.trial_index)]
    if version := next(iter([*by_run, *by_index]), None):
        expected = {name: value for name, value in as_tags(row.model_dump()).items() if name in _TAGS}
        if wrong := {name: value for name, value in expected.items() if version.tags.get(name) != value}:
            yield Change(
                f"{what}: tags of version {version.version} were changed ({', '.join(wrong)})",
                partial(_set_tags, sweep, version, wrong),
            )
    elif row.path is not None and is_at(row.path):
        yield Change(f"{what}: its version was deleted", partial(_restore_version, sweep, row))
    else:
        yield Change(f"{what}: its version was deleted, and its weights {row.path} are gone; {REMEDY}", None)


def _theta0_changes(
    sweep: Sweep, client: MlflowClient, versions: Sequence[ModelVersion], sha256: str | None
) -> Iterator[Change]:
    for run in sweep.runs(client, "tags.role = 'initialization'")[:1]:
        if is_deleted(run):
            yield Change("theta0: its run was deleted", partial(_restore_theta0, sweep))
        version = next((version for version in versions if version.run_id == run.info.run_id), None)
        if version is None:
            yield Change("theta0: its version was deleted", partial(_restore_theta0_version, sweep, sha256))
        elif version.tags.get("role") != "initialization":
            wrong = {"role": "initialization"}
            what = f"theta0: tags of version {version.version} were changed (role)"
            yield Change(what, partial(_set_tags, sweep, version, wrong))


def _restore_run(sweep: Sweep, row: IngredientRecord) -> str:
    """The id of the trial's run, out of the bin, or a new one with all that is recorded but the weights."""
    client = sweep.client()
    run_id = sweep.child_run(client, "trial", str(row.trial_index), f"trial {row.trial_index}")
    if row_of(client.get_run(run_id)) is None:
        log_row(sweep, client, run_id, row, {})
    return run_id


def _restore_version(sweep: Sweep, row: IngredientRecord) -> None:
    """Register the weights of a trial again, from its run, or from where another run left them."""
    client, path = sweep.client(), str(row.path)
    run_id = _restore_run(sweep, row)
    uri = f"{client.get_run(run_id).info.artifact_uri}/ingredient/{FILE_NAME}"
    if not is_at(uri):
        with scratch() as folder:
            file = fetch_file(path, str(row.sha256), folder, f"trial {row.trial_index}")
            if file.name != FILE_NAME:  # downloaded
                file = file.rename(file.with_name(FILE_NAME))
            client.log_artifact(run_id, str(file), "ingredient")
        row = row.model_copy(update={"path": uri})
    number = make_version(client, sweep, run_id, {**row.model_dump(), RECORD: row.model_dump_json()})
    client.set_tag(run_id, RECORD, row.model_copy(update={"model_version": number}).model_dump_json())


def _restore_theta0(sweep: Sweep) -> str:
    return sweep.child_run(sweep.client(), "initialization", "theta0", "theta0")


def _restore_theta0_version(sweep: Sweep, theta0_sha256: str | None) -> None:
    client, run_id = sweep.client(), _restore_theta0(sweep)
    uri = f"{client.get_run(run_id).info.artifact_uri}/ingredient/{FILE_NAME}"
    with scratch() as folder:
        sha256 = file_sha256(download_artifacts(artifact_uri=uri, dst_path=folder))
    tags = {"role": "initialization", "path": uri, "sha256": sha256, "theta0_sha256": theta0_sha256}
    make_version(client, sweep, run_id, tags)


def _set_tags(sweep: Sweep, version: ModelVersion, tags: Mapping[str, str]) -> None:
    client = sweep.client()
    for key, value in tags.items():
        client.set_model_version_tag(version.name, str(version.version), key, value)
