"""``python -m pipeline dashboard``: the sweeps of a registry in the browser, while they run."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.commands.common import add_store_argument, guarded, store_of
from pipeline.config.yaml_text import plain_yaml
from pipeline.errors import ConfigError, RegistryError, quoted
from pipeline.records.folder import RunFolder

logger = logging.getLogger(__name__)

HELP: dict[str, Any] = {
    "description": "Show what the sweeps of a registry cost and came to, while they run: a page in the browser, which "
    "refreshes itself. It reads the registry alone, so it runs anywhere, and writes nothing.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="what to show first: the `name` of a run, or its folder, whose settings name the registry too (default: "
        "the latest sweep)",
    )
    add_store_argument(parser)
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=_port, default=8050, help="default: %(default)s; 0: any that is free")
    parser.set_defaults(execute=execute)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{quoted(text)} is no port; give a number up to 65535")
    return int(text)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return guarded(lambda: dashboard(arguments))


def dashboard(arguments: argparse.Namespace) -> None:
    """Serve the page until it is interrupted. Raises PipelineError."""
    names, stores = _named(arguments.runs)
    if arguments.tracking_uri is None and stores:
        if len(set(stores)) > 1:
            raise ConfigError(f"RUN: the runs are recorded in different stores ({', '.join(sorted(set(stores)))})")
        arguments.tracking_uri = stores[0]
    uri = store_of(arguments)
    # Of MLflow's client: one more try, soon. The page says that the registry is away, and is asked again by itself.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for name in ("werkzeug", "urllib3"):  # a line for every request, a warning for every try
        logging.getLogger(name).setLevel(logging.ERROR)
    from pipeline.dashboard import Reader, make_app  # slow to import
    from pipeline.registry import redact, store_errors

    with _listening(arguments.host, arguments.port) as place:
        reader = Reader(uri)
        with store_errors(uri):
            reader.first()
        there = {sweep.name for sweep in reader.state([]).sweeps}
        if missing := [name for name in names if name not in there]:
            known = f"there are: {', '.join(sorted(there))}" if there else "it is empty"
            raise RegistryError(f"the registry {redact(uri)} has no run {quoted(missing[0])}; {known}")
        _serve(make_app(reader, names, loopback=_is_loopback(place)), place, redact(uri))


def _named(runs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of the runs, and the stores that the folders among them name."""
    names, stores = [], []
    for run in runs:
        path = Path(run)
        if not path.is_dir():
            if os.sep in run:
                raise ConfigError(f"RUN: there is no folder {path}")
            names.append(run)
            continue
        settings = RunFolder(path).settings
        try:
            values = plain_yaml(settings.read_text(encoding="utf-8"))
            names.append(str(values["name"]))
            stores.append(str(values["registry"]["tracking_uri"]))
        except Exception as error:
            raise ConfigError(f"RUN: {path} is no folder of a run ({settings.name} cannot be read)") from error
    return names, stores


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; raises ConfigError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno and error.errno > 0 else error
        raise ConfigError(f"--port, --host: cannot listen on {host} port {port} ({reason}); give others") from error


def _is_loopback(place: socket.socket) -> bool:
    return ipaddress.ip_address(place.getsockname()[0]).is_loopback


def _serve(app: Any, place: socket.socket, store: str) -> None:
    """Answer requests until interrupted."""
    from werkzeug.serving import make_server

    host, port = place.getsockname()[:2]
    if not _is_loopback(place):
        logger.warning("whoever reaches %s may read what is in the registry: there is no password", host)
    server = make_server(host, port, app.server, threaded=True, fd=place.fileno())
    logger.info("showing %s at http://%s:%d (Ctrl-C ends it)", store, f"[{host}]" if ":" in host else host, port)
    server.serve_forever()
