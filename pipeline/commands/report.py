"""``python -m pipeline report``: the report of a finished run again, or of several runs side by side."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from pipeline.commands.common import guarded, path_argument
from pipeline.config import import_plugins_of
from pipeline.errors import ConfigError
from pipeline.records.folder import RunFolder, read_results
from pipeline.report import comparison_page, page, write_page
from pipeline.studies import study_tables

logger = logging.getLogger(__name__)

HELP: dict[str, Any] = {
    "description": "Write one self-contained page on the records of a run, or of several side by side. Reads their "
    "folders alone: no cluster and no registry.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("runs", nargs="+", type=path_argument, metavar="RUN", help="folder of a run, as in runs/NAME")
    parser.add_argument("--out", required=True, type=path_argument, metavar="FILE", help="the page, as HTML")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return guarded(lambda: report(arguments.runs, arguments.out))


def report(folders: list[Path], out: Path) -> None:
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
