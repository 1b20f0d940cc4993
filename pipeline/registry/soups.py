"""Soups: one run per method, one version of ``<name>-soup`` per constructed soup, aliases per method and champion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.entities.model_registry import ModelVersion

from pipeline.errors import RegistryError
from pipeline.files import file_sha256, scratch
from pipeline.records import (
    DESCRIPTION_FILE,
    SCORES,
    LineageRecord,
    ModelDescription,
    RecordedRuns,
    SoupRecord,
    score,
)
from pipeline.registry.client import MlflowException, as_tags, redact
from pipeline.registry.descriptions import how_to_load
from pipeline.registry.ingredients import fetch_file, is_at, trials_by_run
from pipeline.registry.serving import SoupModel, changed_files, file_digests, remove_files, save_served_model
from pipeline.registry.sweeps import CHAMPION, Sweep, is_deleted, is_superseded

_ACCURACIES = ("test_accuracy", "select_accuracy", "val_accuracy")
_METRICS = (
    *_ACCURACIES, "num_selected", "num_ingredients", "construction_seconds", "gpu_hours",
    "epochs", "peak_memory_bytes", "peak_reserved_bytes",
)  # fmt: skip
_LINEAGE = "lineage.json"
_ENSEMBLE = "ensemble"  # in place of a checksum
# Of a version: what is read there.
_TAGS = ("method", "path", "sha256", "lineage", "val_accuracy", "test_accuracy")
_FILES = "served_files"  # a tag of a version: the SHA-256 of each file of its folder; older ones have none
_REMEDY = "the command `run` that made it makes it again where it is gone"
_FOLDER = "soup"  # of a run: MLflow's model


@dataclass(frozen=True)
class SoupVersion:
    """The version of the soup model that a method's run made, and how its soup was made and measured."""

    version: int
    method: str
    uri: str
    sha256: str
    lineage: LineageRecord
    figures: dict[str, float]
    files: dict[str, str] | None
    """By path in the served folder the SHA-256 of each file; None where they were not recorded."""


@dataclass(frozen=True)
class SoupRun:
    """The run of a method's soup, and its version; None of an ensemble, and where it was deleted."""

    run: Run
    version: ModelVersion | None

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.run.info.run_id)

    @property
    def key(self) -> str:
        """Method, checksum of the weights and number of ingredients, joined by colons."""
        return str(self.run.data.tags["key"])

    @property
    def method(self) -> str:
        """The method whose soup it is."""
        return self.key.partition(":")[0]

    @property
    def is_model(self) -> bool:
        """Whether the run is to have a version."""
        return f":{_ENSEMBLE}:" not in self.key

    @property
    def served_uri(self) -> str:
        """The folder that MLflow serves the version from."""
        return f"{self.run.info.artifact_uri}/{_FOLDER}"

    @property
    def is_intact(self) -> bool:
        """Whether the run is not in the bin and has its version with its tags; see `file_changes` too."""
        has_version = self.version is not None and not _lost(self.version)
        return not is_deleted(self.run) and (has_version or not self.is_model)


def soup_runs(sweep: Sweep) -> list[SoupRun]:
    """All runs of soups of this sweep: those in the bin last, of both the oldest first."""
    client = sweep.client()
    version_of = {version.run_id: version for version in reversed(sweep.versions(client, sweep.soup_model))}
    return [
        SoupRun(run, version_of.get(run.info.run_id))
        for run in sweep.runs(client, "tags.role = 'soup'")
        if "key" in run.data.tags
    ]


def _lost(version: ModelVersion) -> list[str]:
    """The tags that a version of ours must have and that someone took away."""
    return [name for name in _TAGS if name not in version.tags]


def _recorded_files(version: ModelVersion) -> dict[str, str] | None:
    """See `SoupVersion.files`; empty where people wrote something else there."""
    if _FILES not in version.tags:
        return None
    try:
        return dict(json.loads(version.tags[_FILES]))
    except (ValueError, TypeError):
        return {}


def file_changes(soup: SoupRun) -> list[str]:
    """What is not as recorded of the files of a version, those that MLflow serves and its lineage, a line each.

    Weights only have to be there; `fetch_soup` compares them. Nothing else is known of a soup that was recorded before
    its files were.
    """
    if soup.version is None:
        return []
    what, tags = f"soup '{soup.method}' (version {soup.version.version})", soup.version.tags
    recorded, path = _recorded_files(soup.version), tags.get("path", "")
    changes = [] if is_at(f"{soup.run.info.artifact_uri}/{_LINEAGE}") else [f"{what}: {_LINEAGE} is missing"]
    if recorded is None:
        return changes if is_at(path) else [*changes, f"{what}: its weights {path} are missing"]
    if path.removeprefix(f"{soup.served_uri}/") not in recorded:
        return [*changes, f"{what}: its tags ('path', '{_FILES}') do not say any more what is in {soup.served_uri}"]
    return [*changes, *(f"{what}: {name} {how}" for name, how in changed_files(soup.served_uri, recorded).items())]


def register_soup(sweep: Sweep, row: SoupRecord, lineage: LineageRecord, model: SoupModel | None) -> str:
    """Log a method's run with its figures, settings and lineage; returns the run's id.

    ``model`` is registered as a version with the alias ``row.method``, which MLflow can serve; None for an ensemble,
    which is no model. The same soup registered again makes again what was deleted of it, and else changes nothing;
    another one becomes a new version.
    """
    client = sweep.client()
    sha256 = _ENSEMBLE if model is None else file_sha256(model.weights)
    key = f"{row.method}:{sha256}:{row.num_ingredients}"
    run_id = sweep.child_run(client, "soup", key, row.method, seconds=row.construction_seconds)
    # MLflow shows metrics in the order in which they were logged, and its page that compares runs begins with a chart
    # of the first metric over the parameters that differ: that is to be the method alone, so settings are tags.
    test_first = (*reversed(SCORES), *row.scores)
    values = {sweep.metric(name): row.scores[name] for name in test_first if name in row.scores}
    names = (*_METRICS, *(f"{shift}_accuracy" for shift in row.shift_accuracies))
    values |= {name: getattr(row, name) for name in names}
    metrics = [Metric(key, value, 0, 0) for key, value in values.items() if value is not None]
    settings = [RunTag(f"settings.{key}", value) for key, value in as_tags(lineage.settings).items()]
    client.log_batch(run_id, metrics, [Param("method", row.method)], settings)
    client.log_text(run_id, lineage.model_dump_json(indent=1), _LINEAGE)
    if model is not None:
        own = next(iter(sweep.versions(client, sweep.soup_model, f"run_id = '{run_id}'")), None)
        soup = SoupRun(client.get_run(run_id), own)
        own_tags = {
            **row.model_dump(),
            **{"sweep_id": sweep.sweep_id, "sha256": sha256, "learned_on": lineage.learned_on},
            "path": f"{soup.served_uri}/artifacts/{model.weights.name}",
            "settings": json.dumps(lineage.settings),
            "lineage": f"runs:/{run_id}/{_LINEAGE}",
        }
        tags = {**own_tags, **sweep.origin, **own_tags}  # its own are shown first, and count
        if own is None or file_changes(soup):
            tags[_FILES] = json.dumps(_log_model(sweep, soup, model))
        if own is None:
            source = f"runs:/{run_id}/{_FOLDER}"
            number = sweep.make_version(client, sweep.soup_model, source, run_id, as_tags(tags))
            client.update_model_version(sweep.soup_model, str(number), _description(sweep, row, number))
        else:
            for key, value in as_tags(tags).items():
                if key not in own.tags or (key in (*_TAGS, _FILES) and own.tags[key] != value):
                    client.set_model_version_tag(sweep.soup_model, str(own.version), key, value)
        point_aliases(sweep, {row.method: run_id})
    client.set_terminated(run_id)
    return run_id


def _description(sweep: Sweep, row: SoupRecord, number: int) -> str:
    """What the page of a version begins with: what it is, how good, how to load it."""
    scores = ((split, score(row, split)) for split in ("test", "select", "val"))
    figures = ", ".join(f"{sweep.deciding_metric(split)} {value:.4f}" for split, value in scores if value is not None)
    what = f"{row.method}, {row.num_selected} of {row.num_ingredients} ingredients: {figures}"
    return f"{what}\n\n{how_to_load(sweep, f'/{number}')}"


def _log_model(sweep: Sweep, soup: SoupRun, model: SoupModel) -> dict[str, str]:
    """Log what MLflow serves, in place of what is there; returns what `SoupVersion.files` then are."""
    with scratch() as folder:
        save_served_model(folder / _FOLDER, model)
        files = file_digests(folder / _FOLDER)
        added = [name for name, how in changed_files(soup.served_uri, files).items() if how == "was added"]
        remove_files(soup.served_uri, added)
        sweep.client().log_artifacts(soup.run_id, str(folder / _FOLDER), _FOLDER)
    return files


def point_aliases(sweep: Sweep, run_ids: Mapping[str, str]) -> list[str]:
    """Point each alias at the version that its run made; returns, a line each, what pointed elsewhere.

    Nothing is done for a sweep that is not the latest of its name: the aliases are those of a later one.
    """
    if not sweep.is_latest():
        return []
    wrong, numbers = _wrong_aliases(sweep, run_ids)
    for alias in wrong:
        sweep.client().set_registered_model_alias(sweep.soup_model, alias, numbers[alias])
    return list(wrong.values())


def _wrong_aliases(sweep: Sweep, run_ids: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """By alias what is wrong with those that point elsewhere, and the numbers of the versions that they belong to."""
    client = sweep.client()
    number_of = {version.run_id: str(version.version) for version in sweep.versions(client, sweep.soup_model)}
    numbers = {alias: number_of[run_id] for alias, run_id in run_ids.items() if run_id in number_of}
    there = {alias: str(number) for alias, number in _aliases(sweep).items()}
    wrong = {}
    for alias, number in numbers.items():
        if alias not in there:
            wrong[alias] = f"alias '{alias}' of {sweep.soup_model} was deleted; it belongs to version {number}"
        elif there[alias] != number:
            wrong[alias] = (
                f"alias '{alias}' of {sweep.soup_model} was moved to version {there[alias]}; it belongs to version "
                f"{number}"
            )
    return wrong, numbers


def _aliases(sweep: Sweep) -> dict[str, int]:
    """The aliases of the soup model, none where it was deleted."""
    try:
        return dict(sweep.client().get_registered_model(sweep.soup_model).aliases)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def current_soups(sweep: Sweep) -> dict[str, SoupRun]:
    """By method the soups that none superseded; of several not yet marked that which has the alias, or the last."""
    aliases, soups = _aliases(sweep), dict[str, SoupRun]()
    for soup in soup_runs(sweep):
        if is_superseded(soup.run):
            continue
        kept = soups.get(soup.method)
        has_alias = kept and kept.version and str(aliases.get(soup.method)) == str(kept.version.version)
        if kept is None or (not is_deleted(soup.run) and not has_alias):
            soups[soup.method] = soup
    return soups


def recorded_runs(sweep: Sweep) -> RecordedRuns:
    """Where the runs of the sweep are, for a page that is made of records alone."""
    return RecordedRuns(
        tracking_uri=redact(sweep.tracking_uri),
        experiment_id=sweep.experiment_id,
        soups={method: soup.run_id for method, soup in current_soups(sweep).items()},
        trials={row.trial_index: run_id for run_id, row in trials_by_run(sweep).items()},
    )


def soup_changes(sweep: Sweep) -> list[str]:
    """What is not as recorded of runs, versions and aliases of the soups, a line each."""
    soups, changes = current_soups(sweep), []
    for method, soup in soups.items():
        if is_deleted(soup.run):
            changes.append(f"soup '{method}': its run was deleted")
        if soup.is_model and soup.version is None:
            changes.append(f"soup '{method}': its version was deleted from {sweep.soup_model}")
        elif soup.version is not None and (lost := _lost(soup.version)):
            changes.append(f"soup '{method}': version {soup.version.version} lost its tags ({', '.join(lost)})")
    run_ids = {method: soup.run_id for method, soup in soups.items()}
    champion = sweep.client().get_run(sweep.run_id).data.tags.get(CHAMPION)
    if champion in run_ids:
        run_ids[CHAMPION] = run_ids[champion]
    return [*changes, *_wrong_aliases(sweep, run_ids)[0].values()]


def log_soup_files(sweep: Sweep, run_id: str, files: Sequence[Path]) -> None:
    """Keep ``files`` (coefficients, predictions) with a method's run, in folders named as theirs."""
    client = sweep.client()
    for file in files:
        client.log_artifact(run_id, str(file), file.parent.name)


def list_soups(sweep: Sweep) -> list[SoupVersion]:
    """The current soup of each method that this sweep has made, by version; see `soup_changes` for those that lack."""
    versions = [soup.version for soup in current_soups(sweep).values() if soup.version is not None]
    soups = [_soup_version(version) for version in versions if not _lost(version)]
    return sorted(soups, key=lambda soup: soup.version)


def find_soup(sweep: Sweep, alias: str) -> SoupVersion:
    """The soup that ``alias`` (a method, or ``champion``) points at; raises RegistryError where there is none."""
    client = sweep.client()
    aliases = _aliases(sweep)
    if alias not in aliases:
        others = f"there are: {', '.join(sorted(aliases))}" if aliases else "it has no soups yet"
        if alias == CHAMPION or alias in current_soups(sweep):
            others += "; it was deleted by hand, and the command `run` that made it, given again, makes it again"
        raise RegistryError(f"run '{sweep.name}' has no soup '{alias}'; {others}")
    version = client.get_model_version(sweep.soup_model, str(aliases[alias]))
    if version.tags.get("sweep_id", sweep.sweep_id) != sweep.sweep_id:
        raise RegistryError(f"the latest sweep of run '{sweep.name}' has no soup '{alias}' yet; run its soup stage")
    if _lost(version):
        raise RegistryError(
            f"alias '{alias}' of {sweep.soup_model} was moved to version {version.version}, which this program did not "
            "make; the command `run` that made the soups, given again, moves it back"
        )
    return _soup_version(version)


def soup_of_run(sweep: Sweep, run_id: str) -> SoupVersion:
    """The soup that a method's run made."""
    return _soup_version(sweep.versions(sweep.client(), sweep.soup_model, f"run_id = '{run_id}'")[0])


def _soup_version(version: ModelVersion) -> SoupVersion:
    tags = version.tags
    return SoupVersion(
        version=int(version.version),
        method=tags["method"],
        uri=tags["path"],
        sha256=tags["sha256"],
        lineage=LineageRecord.model_validate_json(_text(tags["lineage"])),
        figures={key: float(tags[key]) for key in (*_ACCURACIES, *SCORES) if key in tags},
        files=_recorded_files(version),
    )


def fetch_description(soup: SoupVersion) -> ModelDescription:
    """The network that the soup's tensors belong to; raises RegistryError."""
    uri = f"{soup.uri.rpartition('/')[0]}/{DESCRIPTION_FILE}"
    text = _text(uri)
    if soup.files is not None and hashlib.sha256(text.encode()).hexdigest() != soup.files.get(
        f"artifacts/{DESCRIPTION_FILE}"
    ):
        raise RegistryError(
            f"{uri}: was changed after it was recorded; give the command `run` again, which makes it again"
        )
    return ModelDescription.model_validate_json(text)


def _text(uri: str) -> str:
    try:
        return str(mlflow.artifacts.load_text(uri))
    except (MlflowException, OSError) as error:
        raise RegistryError(
            f"{uri}: cannot be read ({type(error).__name__}); give the command `run` again, which makes it again"
        ) from error


def set_champion(sweep: Sweep, method: str, run_id: str) -> list[str]:
    """Record ``method`` as the best one, and point the alias ``champion`` at the version that its run made.

    Returns a line if it pointed elsewhere.
    """
    client = sweep.client()
    if client.get_run(sweep.run_id).data.tags.get(CHAMPION) != method:
        client.set_tag(sweep.run_id, CHAMPION, method)
    return point_aliases(sweep, {CHAMPION: run_id})


def fetch_soup(soup: SoupVersion, folder: Path) -> Path:
    """Local path of this version's file, checked; raises RegistryError."""
    title = f"soup '{soup.method}' (version {soup.version})"
    return fetch_file(soup.uri, soup.sha256, folder, title, remedy=_REMEDY)
