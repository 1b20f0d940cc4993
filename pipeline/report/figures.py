"""The figures as files (PNG, SVG), drawn with matplotlib and without its global state."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.digits import significant
from pipeline.report.plot import HeatMap, LinePlot, Plot, Series


def draw(plot: Plot) -> Figure:
    """The plot as a matplotlib figure."""
    return _draw_lines(plot) if isinstance(plot, LinePlot) else _draw_map(plot)


def save(figure: Figure, kind: str, path: Path) -> None:
    """Write a figure as ``png`` or ``svg``, the same bytes for the same records."""
    with matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(path, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)


def _draw_lines(plot: LinePlot) -> Figure:
    figure, axes = _empty(plot.x_title, plot.y_title)
    for series in plot.series:
        if series.low and series.band:
            axes.fill_between(series.x, series.low, series.high, color=series.colour, alpha=0.15, linewidth=0)
        axes.plot(
            *((series.y, series.x) if plot.ticks else (series.x, series.y)),
            color=series.colour,
            linestyle={None: "none", "dash": "--"}.get(series.line, "-"),
            drawstyle="steps-mid" if series.line == "step" else "default",
            linewidth=2,
            marker=series.marker if series.points else None,
            markersize=6,
            markerfacecolor="none" if series.symbol.endswith("-open") else series.colour,
            label=series.label,
        )
        if series.low and not series.band:
            (axes.hlines if plot.ticks else axes.vlines)(
                series.x, series.low, series.high, color=series.colour, linewidth=1.2
            )
        _write_numbers(axes, series)
    if plot.ticks:
        axes.set_xlabel(plot.y_title)
        axes.set_ylabel(plot.x_title)
        axes.set_yticks(range(len(plot.ticks)), plot.ticks)
        axes.set_ylim(len(plot.ticks) - 0.5, -0.5)
    elif plot.whole_x:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value)))
    axes.margins(x=0.06, y=0.14)
    if ends := plot.x_range():
        axes.set_xlim(ends)
    # Above the axes, where it covers no point, and beside nothing: the names of rows leave it the width of the figure.
    columns = 2 if max(len(series.label) for series in plot.series) > 20 else 4
    figure.legend(loc="outside upper left", ncols=columns, frameon=False, fontsize=9)
    return figure


def _draw_map(plot: HeatMap) -> Figure:
    figure, axes = _empty(plot.x_title, plot.y_title)
    axes.grid(visible=plot.counts)
    low, high = plot.span()
    colours = LinearSegmentedColormap.from_list("soup", [colour for _, colour in plot.scale()])
    values = [[float("nan") if value is None else value for value in row] for row in plot.drawn()]
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    if plot.counts:
        for y, row in enumerate(plot.drawn()):
            for x, value in enumerate(row):
                if value is not None:
                    axes.text(x, y, f"{value}", ha="center", va="center", fontsize=8)
    else:
        figure.colorbar(image, label=plot.value_title)
    for axis, names in ((axes.xaxis, plot.columns), (axes.yaxis, plot.rows)):
        ticks = plot.ticks(names)
        axis.set_ticks(list(ticks), list(ticks.values()), fontsize=7)
    return figure


def _write_numbers(axes: Axes, series: Series) -> None:
    for number, side, x, y in zip(series.numbers, series.sides, series.x, series.y, strict=False):
        if side is None:
            continue
        above = side == "above"
        axes.annotate(
            number,
            (x, y),
            xytext=(0, 7 if above else -7),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=8.5,
            color="#404040",
        )


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
