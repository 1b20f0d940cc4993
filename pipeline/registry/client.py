"""A connection to the MLflow tracking server or database."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request, verify_rest_response

from pipeline.errors import RegistryError
from pipeline.files import patiently

logger = logging.getLogger(__name__)

# Alembic tells of every step of a database migration, MLflow of every model that it creates.
for _name in ("alembic", "mlflow"):
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"mlflow\.")


def connect(tracking_uri: str, patience: float = 0) -> MlflowClient:
    """A client of the store at ``tracking_uri``, which has answered once.

    A new SQLite database is migrated here, before any trial needs it: processes that start one together crash. A store
    that cannot be reached is asked again, less and less often, for ``patience`` seconds; then raises RegistryError.
    """
    return patiently(
        lambda: _connect(tracking_uri),
        patience,
        lambda error: isinstance(error, RegistryError),
        lambda error, pause: logger.info("%s; asking again in %.0f s", error, pause),
    )


def _connect(tracking_uri: str) -> MlflowClient:
    try:
        if tracking_uri.startswith("sqlite:///"):
            Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        mlflow.set_tracking_uri(tracking_uri)
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        _ask(client, tracking_uri)
    except Exception as error:
        raise RegistryError(
            f"registry.tracking_uri: the MLflow store {redact(tracking_uri)} cannot be reached "
            f"({_reason(tracking_uri, error)}); "
            "start the server or correct the setting"
        ) from error
    return client


def _ask(client: MlflowClient, tracking_uri: str) -> None:
    """One request, given up soon: MLflow's own patience with a dead server is minutes, whoever wants to wait says so.

    MLflow's settings for that hold for the whole process, so for the requests of other threads too.
    """
    if urlsplit(tracking_uri).scheme in ("http", "https"):
        endpoint = "/api/2.0/mlflow/experiments/search"
        credentials = get_default_host_creds(tracking_uri)
        response = http_request(credentials, endpoint, "POST", max_retries=1, timeout=10, json={"max_results": 1})
        verify_rest_response(response, endpoint)
    else:
        client.search_experiments(max_results=1)


@contextlib.contextmanager
def store_errors(tracking_uri: str) -> Iterator[None]:
    """Turns what MLflow raises when it has given up on the store into RegistryError."""
    try:
        yield
    except MlflowException as error:
        raise RegistryError(
            f"the MLflow store {redact(tracking_uri)} failed ({_reason(tracking_uri, error)}); what was recorded is "
            "kept, the same command goes on once the store is well"
        ) from error


def redact(uri: str, text: str | None = None) -> str:
    """``text`` (default: ``uri``) without the user name and password of ``uri``."""
    credentials, at, _ = urlsplit(uri).netloc.rpartition("@")
    text = uri if text is None else text
    return text.replace(f"{credentials}@", "") if at else text


def _reason(tracking_uri: str, error: Exception) -> str:
    """What ``error`` says, in a line and without credentials."""
    return " ".join(redact(tracking_uri, str(error)).split())[:200]


def local_path(uri: str) -> Path | None:
    """The path that a local artifact URI names, None for a remote one."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(uri) if parts.scheme == "" else None


def as_tags(values: Mapping[str, Any]) -> dict[str, str]:
    """``values`` as MLflow tags, without those that are None."""
    return {key: str(value) for key, value in values.items() if value is not None}


__all__ = [
    "MlflowClient",
    "MlflowException",
    "as_tags",
    "connect",
    "local_path",
    "redact",
    "store_errors",
]
