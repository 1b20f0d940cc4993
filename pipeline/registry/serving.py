"""A soup as a model that MLflow serves: code, safetensors and a description of the network; no pickle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array

from pipeline.files import file_sha256, scratch
from pipeline.records import DESCRIPTION_FILE, ModelDescription
from pipeline.registry.client import MlflowException

_SERVED = Path(__file__).with_name("served_model.py")
_REQUIREMENTS = ("mlflow", "torch", "safetensors", "numpy", "pandas")
_OUTPUTS = Schema(
    [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Array(DataType.double), "logits"),
    ]
)


@dataclass(frozen=True)
class SoupModel:
    """A soup's safetensors file and the network that its tensors belong to.

    ``network_file`` is the Python file that builds the network, ``reader_file`` the one that encodes what is asked;
    they import nothing but ``requirements``, the names of distributions, torch and numpy. ``columns`` are those of a
    request, each with its type in MLflow, ``example`` has a value for each.
    """

    weights: Path
    description: ModelDescription
    network_file: Path
    reader_file: Path
    requirements: tuple[str, ...]
    columns: Mapping[str, str]
    example: Mapping[str, Any]


def save_served_model(folder: Path, model: SoupModel) -> None:
    """Write MLflow's model ``folder`` for a soup, its weights in ``artifacts``."""
    description = folder.with_name(DESCRIPTION_FILE)
    description.write_text(model.description.model_dump_json(indent=1), encoding="utf-8")
    requirements = dict.fromkeys((*_REQUIREMENTS, *model.requirements))  # each once
    mlflow.pyfunc.save_model(
        folder,
        python_model=str(_SERVED),
        code_paths=[str(model.network_file), str(model.reader_file)],
        artifacts={"weights": model.weights.absolute().as_uri(), "description": description.absolute().as_uri()},
        signature=ModelSignature(_inputs(model.columns), _OUTPUTS),
        input_example=pd.DataFrame([model.example]),
        # Of a local version (2.13.0+cpu) no registry knows the last part.
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in requirements],
    )


def file_digests(folder: Path) -> dict[str, str]:
    """By path in ``folder`` the SHA-256 of each file."""
    return {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def changed_files(uri: str, recorded: Mapping[str, str]) -> dict[str, str]:
    """By path the files in the artifact folder ``uri`` that are not as ``recorded`` (see `file_digests`), and how.

    A file of weights need only be there: it is large, and has a checksum of its own for those who read it.
    """
    repository = get_artifact_repository(uri)
    names = set(_files(repository, None))
    changes = dict.fromkeys(recorded.keys() - names, "is missing") | dict.fromkeys(names - recorded.keys(), "was added")
    with scratch() as copies:
        for name in (name for name in names & recorded.keys() if Path(name).suffix != ".safetensors"):
            if file_sha256(repository.download_artifacts(name, str(copies))) != recorded[name]:
                changes[name] = "was changed"
    return dict(sorted(changes.items()))


def remove_files(uri: str, names: Iterable[str]) -> None:
    """Delete files of an artifact folder."""
    repository = get_artifact_repository(uri)
    for name in names:
        repository.delete_artifacts(name)


def _files(repository: ArtifactRepository, folder: str | None) -> Iterator[str]:
    """The paths of all files in a folder of artifacts and below it; None is the whole."""
    try:
        items = repository.list_artifacts(folder)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return
    for item in items:
        if item.is_dir:
            yield from _files(repository, item.path)
        else:
            yield item.path


def _inputs(columns: Mapping[str, str]) -> Schema:
    return Schema([ColSpec(DataType[kind], name) for name, kind in columns.items()])
