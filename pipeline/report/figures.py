"""The figures as files (PNG, SVG), drawn with matplotlib and without its global state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.records import CostRecord, IngredientRecord, RunRecord, SoupRecord, cost_unit
from pipeline.report.formats import significant
from pipeline.report.series import champion_of, cost_lines, trials
from pipeline.report.styles import GREY, TEST_COLOUR, VALIDATION_COLOUR, style


def cost_figure(costs: Sequence[CostRecord], ingredients: Sequence[IngredientRecord]) -> Figure:
    """Test accuracy against the cost of the trials (Fig. 2), the number of ingredients beside each point."""
    figure, axes = _empty(f"Cost so far ({cost_unit(ingredients)})", "Test accuracy (%)")
    for line in cost_lines(costs):
        look = style(line.method)
        hours = [point.record.gpu_hours for point in line.points]
        accuracies = [100 * point.record.test_accuracy for point in line.points]
        axes.plot(hours, accuracies, color=look.colour, marker=look.marker, markersize=6, linewidth=2, label=look.label)
        for point, x, y in zip(line.points, hours, accuracies, strict=True):
            if point.label_side:
                above = point.label_side == "above"
                axes.annotate(
                    str(point.record.num_ingredients),
                    (x, y),
                    xytext=(0, 7 if above else -7),
                    textcoords="offset points",
                    ha="center",
                    va="bottom" if above else "top",
                    fontsize=8.5,
                    color="#404040",
                )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value)))
    axes.margins(x=0.06, y=0.14)
    _legend(axes)
    return figure


def ingredients_figure(run: RunRecord, ingredients: Sequence[IngredientRecord], soups: Sequence[SoupRecord]) -> Figure:
    """Validation and test accuracy of every trial in search order; those without an ingredient are marked below."""
    figure, axes = _empty("Trial, in search order", "Accuracy (%)")
    rows = trials(ingredients)
    for label, name, marker, colour, face in (
        ("Validation", "val_accuracy", "s", VALIDATION_COLOUR, "none"),
        ("Test", "test_accuracy", "o", TEST_COLOUR, TEST_COLOUR),
    ):
        known = [(row.trial_index, getattr(row, name)) for row in rows.finished if getattr(row, name) is not None]
        axes.scatter(
            [index for index, _ in known],
            [100 * value for _, value in known],
            s=36,
            marker=marker,
            edgecolors=colour,
            facecolors=face,
            linewidths=1.5,
            label=label,
        )
    if rows.without:
        marks = [100 * rows.floor] * len(rows.without)
        axes.scatter([row.trial_index for row in rows.without], marks, s=44, marker="x", c=GREY, label="No ingredient")
    champion = champion_of(run, soups)
    if champion is not None:
        look = style(champion.method)
        label = f"{look.label} (champion), test"
        axes.axhline(100 * champion.test_accuracy, color=look.colour, linestyle="--", linewidth=1.5, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes)
    return figure


def save(figure: Figure, kind: str, path: Path) -> None:
    """Write a figure as ``png`` or ``svg``, the same bytes for the same records."""
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(path, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)


def _empty(x_title: str, y_title: str) -> tuple[Figure, Axes]:
    """A figure with labelled axes, ready to be drawn on."""
    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_title)
    axes.set_ylabel(y_title)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    """The legend above the axes, where it covers no point."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize=9, borderaxespad=0.2)
