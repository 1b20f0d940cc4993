"""``python -m pipeline report``: the report of a finished run again, or of several runs side by side."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.commands.common import add_store_argument, guarded, path_argument, store_of
from pipeline.config import import_plugins_of
from pipeline.errors import ConfigError, RegistryError, quoted
from pipeline.files import absolute_path, scratch
from pipeline.records.folder import RunFolder, read_results
from pipeline.report import comparison_page, page, write_page
from pipeline.studies import study_tables

logger = logging.getLogger(__name__)

HELP: dict[str, Any] = {
    "description": "Write one self-contained page on the records of a run, or of several side by side. Of runs that "
    "are given by name the registry is read, of folders nothing else; no cluster is joined.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "runs",
        nargs="+",
        type=_run,
        metavar="RUN",
        help="folder of a run, as in runs/NAME; or its `name`, where there is no such folder",
    )
    parser.add_argument("--out", required=True, type=path_argument, metavar="FILE", help="the page, as HTML")
    add_store_argument(parser)
    parser.set_defaults(execute=execute)


def _run(text: str) -> str:
    path_argument(text)
    return text


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""

    def job() -> None:
        with scratch() as fetched:
            report(_folders(arguments, fetched), arguments.out)

    return guarded(job)


def report(folders: Sequence[Path], out: Path) -> None:
    """Write the page on the runs in ``folders``. Raises PipelineError."""
    for folder in folders:
        import_plugins_of(RunFolder(folder).settings)  # which may bring the tables of studies, and their sections
    runs = [read_results(folder, study_tables()) for folder in folders]
    html = page(runs[0]) if len(runs) == 1 else comparison_page(runs)
    try:
        write_page(out, html)
    except OSError as error:
        raise ConfigError(f"--out: {out} cannot be written ({error.strerror or error})") from error
    logger.info("wrote %s", out)


def _folders(arguments: argparse.Namespace, fetched: Path) -> list[Path]:
    """Where the records of each run are: of one that is no folder those of the registry, laid into ``fetched``."""
    folders = []
    for number, run in enumerate(arguments.runs):
        path = absolute_path(run)
        if not path.exists() and "/" not in run:
            path = fetched / str(number)
            _fetch(arguments, run, path)
        folders.append(path)
    return folders


def _fetch(arguments: argparse.Namespace, name: str, folder: Path) -> None:
    try:
        uri = store_of(arguments)
    except RegistryError as error:
        raise ConfigError(f"{quoted(name)} is no folder, and no run of a registry: {error}") from error
    from pipeline.registry import fetch_records, find_sweep, store_errors  # slow to import

    folder.mkdir()
    with store_errors(uri):
        fetch_records(find_sweep(uri, name), folder)
