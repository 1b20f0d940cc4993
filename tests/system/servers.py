"""The servers of a cluster, started on this machine: PostgreSQL, MLflow, Prometheus."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml
from program import MLFLOW, Background, environment, free_ports, wait_for, wait_for_server

_FOUND = [Path(found).parent for found in (shutil.which("initdb"),) if found]
_DEBIAN = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
POSTGRES = next((folder for folder in reversed([*_FOUND, *_DEBIAN]) if (folder / "initdb").exists()), None)
needs_postgres = pytest.mark.skipif(POSTGRES is None, reason="PostgreSQL is not installed")
PROMETHEUS = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="Prometheus is not installed")


@contextlib.contextmanager
def postgresql(password: str) -> Iterator[str]:
    """The URI of a new database ``mlflow`` on loopback, with ``password``."""
    assert POSTGRES is not None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    user = {}
    if os.getuid() == 0:  # the server refuses to be started by root
        user = {"user": "postgres", "group": "postgres"}
        shutil.chown(folder, "postgres", "postgres")
    (port,) = free_ports(1)
    (folder / "password").write_text(password)
    (folder / "password").chmod(0o644)
    make = ["--pgdata", folder / "data", "--username=mlflow", f"--pwfile={folder / 'password'}"]
    subprocess.run(
        [POSTGRES / "initdb", *make, "--auth=scram-sha-256", "--no-sync"],
        check=True, capture_output=True, cwd=folder, **user,
    )  # fmt: skip
    (folder / "password").unlink()
    settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        [POSTGRES / "postgres", "-D", folder / "data", *options], stdout=log, stderr=log, cwd=folder, **user
    )
    try:
        ready = [POSTGRES / "pg_isready", "--host=127.0.0.1", f"--port={port}"]
        wait_for(lambda: subprocess.run(ready, capture_output=True).returncode == 0, "PostgreSQL", 60)
        address = f"mlflow:{password}@127.0.0.1:{port}"
        subprocess.run(
            [POSTGRES / "psql", f"postgresql://{address}/postgres", "-c", "create database mlflow"],
            check=True, capture_output=True,
        )  # fmt: skip
        yield f"postgresql+psycopg2://{address}/mlflow"
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def database_text(uri: str) -> str:
    """All that a database holds, as SQL."""
    assert POSTGRES is not None
    dump = subprocess.run(
        [POSTGRES / "pg_dump", uri.replace("+psycopg2", "")], check=True, capture_output=True, text=True
    )
    return dump.stdout


@dataclass
class TrackingServer:
    """An MLflow server that can be stopped and started again at its address."""

    command: list[str]
    env: dict[str, str]
    uri: str
    log: Path
    running: Background | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.running = Background(self.command, self.env, self.log)
        wait_for_server(f"{self.uri}/health", self.running)

    def kill(self) -> None:
        """End it without a word."""
        if self.running is not None:
            self.running.end_session()


@contextlib.contextmanager
def tracking_server(
    folder: Path, store: str, artifacts: str, *options: str, ip: str = "127.0.0.1", **env: str
) -> Iterator[TrackingServer]:
    """A running server on the backend ``store`` that hands on what is in ``artifacts``."""
    folder.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    command = [
        str(MLFLOW), "server", "--artifacts-destination", artifacts, "--host", ip, "--port", str(port),
        "--workers", "1", *options,
    ]  # fmt: skip
    server = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true")
    server |= {"MLFLOW_BACKEND_STORE_URI": store, **env}
    tracking = TrackingServer(command, server, f"http://{ip}:{port}", folder / "server.log")
    try:
        tracking.start()
        yield tracking
    finally:
        tracking.kill()


def sqlite_server(folder: Path, migrated: Path, ip: str = "127.0.0.1") -> AbstractContextManager[TrackingServer]:
    """A running server on a copy of the ``migrated`` database in ``folder``, where its artifacts are too."""
    folder.mkdir(exist_ok=True)
    shutil.copy(migrated, folder / "mlflow.db")
    return tracking_server(folder, f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"), ip=ip)


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    uri: str

    def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers, the data alone; an expression that it cannot read is an HTTP error."""
        with urlopen(f"{self.uri}/api/v1/{path}?{urlencode(parameters)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def series(self, expression: str, since: float) -> list[dict[str, Any]]:
        """What an expression came to, second by second, as Grafana asks for it: ``metric`` and ``values`` of each."""
        times = {"start": f"{since}", "end": f"{time.time()}", "step": "1"}
        return self.ask("query_range", query=expression, **times)["result"]


@contextlib.contextmanager
def prometheus(folder: Path, settings: dict[str, Any]) -> Iterator[Prometheus]:
    """A Prometheus with these settings, which are those of its configuration file."""
    folder.mkdir()
    (port,) = free_ports(1)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    command = [
        str(PROMETHEUS), f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with Background(command, environment(), folder / "prometheus.log") as running:
        wait_for_server(f"http://127.0.0.1:{port}/-/ready", running)
        yield Prometheus(f"http://127.0.0.1:{port}")
