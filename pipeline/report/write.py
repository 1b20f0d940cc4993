"""Writing the report: each file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from pipeline.records import ComparisonRecord, CostRecord, IngredientRecord, RunRecord, SoupRecord
from pipeline.report.figures import cost_figure, ingredients_figure, save
from pipeline.report.page import page


def write_report(
    folder: Path,
    run: RunRecord,
    ingredients: Sequence[IngredientRecord],
    soups: Sequence[SoupRecord],
    costs: Sequence[CostRecord],
    comparisons: Sequence[ComparisonRecord],
) -> list[Path]:
    """Write ``report.html`` and ``figures/*.png, *.svg`` under ``folder`` and return the paths written.

    The page is one self-contained file that opens with no network. With no ``costs`` there is no figure of them, and
    the page says how to get one. Raises OSError where the folder cannot be written.
    """
    figures: dict[str, Figure] = {}
    if costs:
        figures["cost_accuracy"] = cost_figure(costs, ingredients)
    if ingredients:
        figures["ingredients"] = ingredients_figure(run, ingredients, soups)

    html = page(run, ingredients, soups, costs, comparisons)
    report = folder / "report.html"
    _replace(report, lambda path: path.write_text(html, encoding="utf-8"))
    written = [report]
    for name, figure in figures.items():
        for suffix in ("png", "svg"):
            target = folder / "figures" / f"{name}.{suffix}"
            _replace(target, partial(save, figure, suffix))
            written.append(target)
    return written


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``target``, then put it in its place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
