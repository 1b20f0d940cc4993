"""Writing the report: each file appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import replacing, write_text
from pipeline.records import RunResults
from pipeline.report.page import page
from pipeline.report.sections import plots_of


def write_report(folder: Path, results: RunResults) -> list[Path]:
    """Write ``report.html`` and ``figures/*.png, *.svg`` under ``folder`` and return the paths written.

    The page is one self-contained file that opens with no network. What was not studied has no figure, and the page
    says how to get the cost curve. Raises OSError where the folder cannot be written.
    """
    from pipeline.report.figures import draw, save  # slow to import

    report, figures = folder / "report.html", folder / "figures"
    write_page(report, page(results))
    written = [report]
    for name, plot in plots_of(results).items():
        figure = draw(plot)
        for suffix in ("png", "svg"):
            target = figures / f"{name}.{suffix}"
            with replacing(target) as partial:
                save(figure, suffix, partial)
            written.append(target)
    return written


def write_page(path: Path, html: str) -> None:
    """Write a page whole or not at all. Raises OSError."""
    write_text(path, html)
