"""Soups: one run per method, one version of ``<name>-soup`` per constructed soup, aliases per method and champion."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion

from pipeline.errors import RegistryError
from pipeline.files import file_sha256
from pipeline.records import DESCRIPTION_FILE, LineageRecord, ModelDescription, SoupRecord
from pipeline.registry.client import MlflowException, as_tags
from pipeline.registry.ingredients import fetch_file
from pipeline.registry.serving import SoupModel, save_served_model
from pipeline.registry.sweeps import Sweep

_METRICS = (
    "val_accuracy", "select_accuracy", "test_accuracy", "gpu_hours", "construction_seconds", "epochs",
    "peak_memory_bytes", "num_ingredients", "num_selected",
)  # fmt: skip
_LINEAGE = "lineage.json"
_CHAMPION = "champion"


@dataclass(frozen=True)
class SoupVersion:
    """The version of the soup model that the alias ``method`` points at, and how its soup was made and measured."""

    version: int
    method: str
    uri: str
    sha256: str
    lineage: LineageRecord
    accuracies: dict[str, float]


def register_soup(sweep: Sweep, row: SoupRecord, lineage: LineageRecord, model: SoupModel | None) -> str:
    """Log a method's run with its figures, settings and lineage; returns the run's id.

    ``model`` is registered as a version with the alias ``row.method``, which MLflow can serve; None for an ensemble,
    which is no model. The same soup registered again changes nothing; another one becomes a new version.
    """
    client = sweep.client()
    sha256 = "ensemble" if model is None else file_sha256(model.weights)
    key = f"{row.method}:{sha256}:{row.num_ingredients}"
    run_id = sweep.child_run(client, "soup", key, row.method, seconds=row.construction_seconds)
    names = (*_METRICS, *(f"{shift}_accuracy" for shift in row.shift_accuracies))
    metrics = [Metric(key, value, 0, 0) for key in names if (value := getattr(row, key)) is not None]
    client.log_batch(run_id, metrics=metrics)
    known = client.get_run(run_id).data.params
    for key, value in as_tags({"method": row.method, **lineage.settings}).items():
        if key not in known:
            client.log_param(run_id, key, value)
    client.log_text(run_id, lineage.model_dump_json(indent=1), _LINEAGE)
    if model is not None:
        own = client.search_model_versions(f"name = '{sweep.soup_model}' and run_id = '{run_id}'", max_results=1)
        if own:
            number = own[0].version
        else:
            with tempfile.TemporaryDirectory() as folder:
                weights = save_served_model(Path(folder) / "soup", model)
                client.log_artifacts(run_id, str(Path(folder) / "soup"), "soup")
            uri = f"{client.get_run(run_id).info.artifact_uri}/soup/{weights}"
            tags = {
                **sweep.origin,
                **row.model_dump(),
                **{"sweep_id": sweep.sweep_id, "path": uri, "sha256": sha256, "learned_on": lineage.learned_on},
                "settings": json.dumps(lineage.settings),
                "lineage": f"runs:/{run_id}/{_LINEAGE}",
            }
            number = client.create_model_version(
                sweep.soup_model, f"runs:/{run_id}/soup", run_id, tags=as_tags(tags), await_creation_for=0
            ).version
        client.set_registered_model_alias(sweep.soup_model, row.method, str(number))
    client.set_terminated(run_id)
    return run_id


def log_soup_files(sweep: Sweep, run_id: str, files: Sequence[Path]) -> None:
    """Keep ``files`` (coefficients, predictions) with a method's run, in folders named as theirs."""
    client = sweep.client()
    for file in files:
        client.log_artifact(run_id, str(file), file.parent.name)


def list_soups(sweep: Sweep) -> list[SoupVersion]:
    """The current soup of each method that this sweep has made, by version."""
    client = sweep.client()
    aliases = client.get_registered_model(sweep.soup_model).aliases
    versions = [client.get_model_version(sweep.soup_model, str(aliases[name])) for name in aliases if name != _CHAMPION]
    soups = [_soup_version(version) for version in versions if version.tags["sweep_id"] == sweep.sweep_id]
    return sorted(soups, key=lambda soup: soup.version)


def find_soup(sweep: Sweep, alias: str) -> SoupVersion:
    """The soup that ``alias`` (a method, or ``champion``) points at; raises RegistryError where there is none."""
    client = sweep.client()
    aliases = client.get_registered_model(sweep.soup_model).aliases
    if alias not in aliases:
        others = f"there are: {', '.join(sorted(aliases))}" if aliases else "it has no soups yet"
        raise RegistryError(f"run '{sweep.name}' has no soup '{alias}'; {others}")
    version = client.get_model_version(sweep.soup_model, str(aliases[alias]))
    if version.tags["sweep_id"] != sweep.sweep_id:
        raise RegistryError(f"the latest sweep of run '{sweep.name}' has no soup '{alias}' yet; run its soup stage")
    return _soup_version(version)


def _soup_version(version: ModelVersion) -> SoupVersion:
    tags = version.tags
    return SoupVersion(
        version=int(version.version),
        method=tags["method"],
        uri=tags["path"],
        sha256=tags["sha256"],
        lineage=LineageRecord.model_validate_json(_text(tags["lineage"])),
        accuracies={key: float(tags[key]) for key in _METRICS if key.endswith("_accuracy") and key in tags},
    )


def fetch_description(soup: SoupVersion) -> ModelDescription:
    """The network that the soup's tensors belong to; raises RegistryError."""
    return ModelDescription.model_validate_json(_text(f"{soup.uri.rpartition('/')[0]}/{DESCRIPTION_FILE}"))


def _text(uri: str) -> str:
    try:
        return str(mlflow.artifacts.load_text(uri))
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{uri}: cannot be read ({type(error).__name__}); build the soup again") from error


def set_champion(sweep: Sweep, method: str) -> None:
    """Point the alias ``champion`` at the current version of ``method``."""
    client = sweep.client()
    version = client.get_model_version_by_alias(sweep.soup_model, method).version
    client.set_registered_model_alias(sweep.soup_model, _CHAMPION, str(version))


def fetch_soup(soup: SoupVersion, folder: Path) -> Path:
    """Local path of this version's file, checked; raises RegistryError."""
    return fetch_file(soup.uri, soup.sha256, folder, f"soup '{soup.method}' (version {soup.version})")
