"""Soups: one run per method, one version of ``<name>-soup`` per constructed soup, aliases per method and champion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.entities import Metric

from pipeline.records import SoupRecord
from pipeline.registry.client import as_tags, file_sha256
from pipeline.registry.ingredients import fetch_file
from pipeline.registry.sweeps import Sweep

_METRICS = (
    "val_accuracy", "select_accuracy", "test_accuracy", "gpu_hours", "construction_seconds", "epochs",
    "peak_memory_bytes", "num_ingredients", "num_selected",
)  # fmt: skip


def register_soup(sweep: Sweep, row: SoupRecord, settings: Mapping[str, object], model: Path | None) -> str:
    """Log a method's run with its figures and settings; returns the run's id.

    ``model`` is the soup's safetensors file, registered as a version with the alias ``row.method``; None for an
    ensemble, which is no model. The same soup registered again changes nothing; another one becomes a new version.
    """
    client = sweep.client()
    sha256 = "ensemble" if model is None else file_sha256(model)
    key = f"{row.method}:{sha256}:{row.num_ingredients}"
    run_id = sweep.child_run(client, "soup", key, row.method, seconds=row.construction_seconds)
    metrics = [Metric(key, value, 0, 0) for key in _METRICS if (value := getattr(row, key)) is not None]
    client.log_batch(run_id, metrics=metrics)
    known = client.get_run(run_id).data.params
    for key, value in as_tags({"method": row.method, **settings}).items():
        if key not in known:
            client.log_param(run_id, key, value)
    if model is not None:
        found = client.search_model_versions(f"name = '{sweep.soup_model}' and run_id = '{run_id}'", max_results=1)
        if found:
            number = found[0].version
        else:
            client.log_artifact(run_id, str(model), "soup")
            uri = f"{client.get_run(run_id).info.artifact_uri}/soup/{model.name}"
            tags = {**row.model_dump(), "sweep_id": sweep.sweep_id, "path": uri, "sha256": sha256}
            number = client.create_model_version(
                sweep.soup_model, f"runs:/{run_id}/soup", run_id, tags=as_tags(tags), await_creation_for=0
            ).version
        client.set_registered_model_alias(sweep.soup_model, row.method, str(number))
    client.set_terminated(run_id)
    return run_id


def log_soup_files(sweep: Sweep, run_id: str, files: Sequence[Path]) -> None:
    """Keep ``files`` (coefficients, predictions) with a method's run."""
    client = sweep.client()
    for file in files:
        client.log_artifact(run_id, str(file))


def set_champion(sweep: Sweep, method: str) -> None:
    """Point the alias ``champion`` at the current version of ``method``."""
    client = sweep.client()
    version = client.get_model_version_by_alias(sweep.soup_model, method).version
    client.set_registered_model_alias(sweep.soup_model, "champion", str(version))


def fetch_soup(sweep: Sweep, method: str, folder: Path) -> Path:
    """Local path of the soup that ``method`` points at, checked; raises RegistryError."""
    version = sweep.client().get_model_version_by_alias(sweep.soup_model, method)
    return fetch_file(version.tags["path"], version.tags["sha256"], folder, f"soup '{method}'")
