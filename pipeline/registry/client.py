"""A connection to the MLflow tracking server or database."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
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
from requests.exceptions import ChunkedEncodingError

from pipeline.errors import RegistryError
from pipeline.files import locked, patiently, sqlite_path, sqlite_uri

logger = logging.getLogger(__name__)


# Alembic tells of every step of a database migration, MLflow of every model that it creates.
for _name in ("alembic", "mlflow"):
    logging.getLogger(_name).setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module=r"mlflow\.")


def connect(tracking_uri: str, patience: float = 0) -> MlflowClient:
    """A client of the store at ``tracking_uri``, which has answered once.

    A new SQLite database is made here, before any trial needs it, whole or not at all (see `_make_store`). A store that
    cannot be reached is asked again, less and less often, for ``patience`` seconds; then raises RegistryError.
    """
    return patiently(
        lambda: _connect(tracking_uri),
        patience,
        lambda error: isinstance(error, RegistryError),
        lambda error, pause: logger.info("%s; asking again in %.0f s", error, pause),
    )


def _connect(tracking_uri: str) -> MlflowClient:
    path = sqlite_path(tracking_uri)
    try:
        if path is not None:
            _make_store(path)
        mlflow.set_tracking_uri(tracking_uri)
        client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        _ask(client, tracking_uri)
    except Exception as error:
        raise RegistryError(
            f"registry.tracking_uri: the MLflow store {redact(tracking_uri)} "
            f"{_half_made(path) or _other_version(tracking_uri, error) or _away(tracking_uri, error)}"
        ) from error
    return client


def _make_store(path: Path) -> None:
    """Make the SQLite store ``path`` where there is none.

    MLflow's first migration takes seconds, and a process that dies in it leaves a file that no later call can open. So
    it is done to a file beside, which then takes the place; of several processes one makes it and the others wait.
    """
    if _is_there(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with locked(path.with_name(f".{path.name}.lock")):
        if _is_there(path):
            return
        for leftover in (partial, partial.with_name(f"{partial.name}-journal")):
            leftover.unlink(missing_ok=True)
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # slow to import, and servers need it not

        uri = sqlite_uri(partial)
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
        SqlAlchemyStore._get_or_create_engine(uri).dispose()
        if not _is_there(path):  # `mlflow ui`, which knows no lock of ours, may have been there first
            partial.replace(path)
        partial.unlink(missing_ok=True)


def read_only(path: Path) -> sqlite3.Connection:
    """The SQLite database at ``path``, not made where there is none, and not written to."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _is_there(path: Path) -> bool:
    return path.exists() and (not path.is_file() or path.stat().st_size > 0)


def _half_made(path: Path | None) -> str | None:
    """What to say of a SQLite store whose maker died in MLflow's first migration, None of any other."""
    if path is None or not path.is_file():
        return None
    try:
        with contextlib.closing(read_only(path)) as database:
            tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
            runs = "runs" in tables and database.execute("select count(*) from runs").fetchone()[0]
    except sqlite3.Error:
        return None
    if not any(name.startswith("_alembic_tmp_") for name in tables):
        return None
    if runs:
        return "was being upgraded when that process died; put the backup of the file in its place"
    return f"was being made when that process died, and holds no runs yet; move {path} away and give the command again"


def _other_version(tracking_uri: str, error: Exception) -> str | None:
    """What to say of a database that another version of MLflow made, None of any other."""
    found = re.search(r"found version (\w+)|Can't locate revision identified by '(\w+)'", str(error))
    if found is None:
        return None
    from alembic.script import ScriptDirectory  # slow to import

    migrations = ScriptDirectory(str(Path(str(mlflow.__file__)).parent / "store" / "db_migrations"))
    if (found[1] or found[2]) in {script.revision for script in migrations.walk_revisions()}:
        return (
            f"was made by an older MLflow than the one here ({mlflow.__version__}); make a backup of it, then run "
            f"`mlflow db upgrade {redact(tracking_uri)}`"
        )
    return (
        f"was made by a newer MLflow than the one here ({mlflow.__version__}); install that version of it "
        "(pip install --upgrade mlflow), or name another store"
    )


def _away(tracking_uri: str, error: Exception) -> str:
    return f"cannot be reached ({_reason(tracking_uri, error)}); start the server or correct the setting"


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


def broke_off(error: Exception) -> bool:
    """Whether the server went away in the middle of its answer.

    MLflow itself repeats a request that was not answered, but not this one, which may have been carried out.
    """
    return isinstance(error, MlflowException) and isinstance(error.__context__, ChunkedEncodingError)


@contextlib.contextmanager
def store_errors(tracking_uri: str) -> Iterator[None]:
    """Turns what MLflow raises when it has given up on the store into RegistryError."""
    try:
        yield
    except MlflowException as error:
        store, reason = redact(tracking_uri), _reason(tracking_uri, error)
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or "must be in the 'active' state" in str(error):
            raise RegistryError(
                f"something that was recorded in the MLflow store {store} was deleted or changed by hand ({reason}); "
                "the command `run` that made it, given again, makes again what it can and names the rest"
            ) from error
        raise RegistryError(
            f"the MLflow store {store} failed ({reason}); what was recorded is kept, the same command goes on once the "
            "store is well"
        ) from error


def redact(uri: str, text: str | None = None) -> str:
    """``text`` (default: ``uri``) without the user name and password of ``uri``."""
    try:
        credentials, at, _ = urlsplit(uri).netloc.rpartition("@")
    except ValueError:  # no address, `http://[`: what may be meant by a password in it cannot be told
        return uri.rpartition("@")[2] if text is None else text
    text = uri if text is None else text
    return text.replace(f"{credentials}@", "") if at else text


def _reason(tracking_uri: str, error: Exception) -> str:
    """What ``error`` says, in a line and without credentials."""
    return " ".join(redact(tracking_uri, str(error)).split())[:500]


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
    "read_only",
    "redact",
    "store_errors",
]
