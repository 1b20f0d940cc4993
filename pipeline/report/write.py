"""Writing the report: each file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.records import RunResults
from pipeline.report.figures import draw, save
from pipeline.report.page import page
from pipeline.report.plots import plots_of


def write_report(folder: Path, results: RunResults) -> list[Path]:
    """Write ``report.html`` and ``figures/*.png, *.svg`` under ``folder`` and return the paths written.

    The page is one self-contained file that opens with no network. What was not studied has no figure, and the page
    says how to get the cost curve. Raises OSError where the folder cannot be written.
    """
    report, figures = folder / "report.html", folder / "figures"
    write_page(report, page(results))
    written = [report]
    for name, plot in plots_of(results).items():
        figure = draw(plot)
        for suffix in ("png", "svg"):
            target = figures / f"{name}.{suffix}"
            _replace(target, partial(save, figure, suffix))
            written.append(target)
    return written


def write_page(path: Path, html: str) -> None:
    """Write a page whole or not at all. Raises OSError."""
    _replace(path, lambda temporary: temporary.write_text(html, encoding="utf-8"))


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``target``, then put it in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
