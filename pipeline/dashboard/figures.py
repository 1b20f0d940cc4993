"""The figures of the page, from what was read of its sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

import plotly.graph_objects as go

from pipeline.dashboard.shown import Shown, Split, metric_of, units_of
from pipeline.records import CostRecord
from pipeline.records.types import score
from pipeline.report.charts import draw
from pipeline.report.formats import capital, cost, count, percent
from pipeline.report.plot import LinePlot, Series
from pipeline.report.starting_point import LABEL
from pipeline.report.styles import GREY, TEST_COLOUR

_MARKED = 60  # points of a curve that have markers at most: those of more would hide the line
_START = ("+", "cross-thin")  # the markers of a starting point


def curves(sweeps: Sequence[Shown], split: Split) -> LinePlot:
    """What decides against cost in search order, with 95 % intervals: a line per method and sweep."""
    metric, units = metric_of(sweeps), units_of(sweeps)
    return LinePlot(
        "curves",
        f"{capital(split)} {metric} of each method against cost",
        f"Cost so far ({units})",
        f"{capital(split)} {metric} (%)",
        [series for sweep in sweeps for series in _of_sweep(sweep, split)],
    )


def _of_sweep(sweep: Shown, split: Split) -> Iterator[Series]:
    start: float | None = None
    for curve in sweep.look.curves:
        known = [(row, value) for row in curve.points if (value := score(row, split)) is not None]
        start = next((value for row, value in known if row.num_ingredients == 0), start)
        if points := [(row, value) for row, value in known if row.num_ingredients > 0]:
            yield _line(sweep, curve.method, split, points)
    if start is not None and sweep.alone:
        hover = [f"<b>{escape(LABEL)}</b><br>{split} {percent(start)} %"]
        yield Series(LABEL, GREY, *_START, x=[0], y=[100 * start], line=None, hover=hover)


def _line(sweep: Shown, method: str, split: Split, points: Sequence[tuple[CostRecord, float]]) -> Series:
    look, unit = sweep.look_of(method), sweep.look.unit
    bounds = sweep.all_bounds([value for _, value in points], split)
    return Series(
        *look,
        x=[row.gpu_hours for row, _ in points],
        y=[100 * value for _, value in points],
        low=[100 * low for low, _ in bounds],
        high=[100 * high for _, high in bounds],
        band=True,
        points=len(points) <= _MARKED,
        hover=[
            f"<b>{escape(look.label)}</b><br>{count(row.num_ingredients, 'ingredient')}<br>{cost(row.gpu_hours, unit)}"
            f"<br>select {percent(score(row, 'select'))} %<br>test {percent(score(row, 'test'))} %"
            for row, _ in points
        ],
    )


def soups(sweeps: Sequence[Shown], split: Split) -> LinePlot:
    """The soups side by side with their 95 % intervals: a place per method, a colour per sweep."""
    best: dict[str, float] = {}
    for sweep in sweeps:
        for soup in sweep.look.soups:
            best[soup.method] = max(best.get(soup.method, -1.0), soup.scores.get(split, -1.0))
    methods = sorted(best, key=lambda method: -best[method])
    labels = sweeps[0].labels if sweeps else {}
    series = []
    for sweep in sweeps:
        values = {soup.method: soup.scores[split] for soup in sweep.look.soups if split in soup.scores}
        order = [method for method in methods if method in values]
        bounds = sweep.all_bounds([values[method] for method in order], split)
        if order:
            series.append(
                Series(
                    sweep.title,
                    TEST_COLOUR if sweep.alone else sweep.colour,
                    "o",
                    "circle",
                    x=[methods.index(method) for method in order],
                    y=[100 * values[method] for method in order],
                    low=[100 * low for low, _ in bounds],
                    high=[100 * high for _, high in bounds],
                    line=None,
                    hover=[
                        f"<b>{escape(labels.get(method, method))}</b><br>{escape(sweep.title)}"
                        f"<br>{split} {percent(values[method])} %"
                        for method in order
                    ],
                )
            )
    metric = metric_of(sweeps)
    what = f"{capital(split)} {metric} of the soups"
    ticks = [labels.get(method, method) for method in methods]
    return LinePlot("soups", what, "", f"{capital(split)} {metric} (%)", series, ticks=ticks)


def line_figure(plot: LinePlot) -> go.Figure:
    """A plot as a plotly figure; what a person zoomed to stays while points are added.

    A starting point, far below all else, is drawn once its name is touched.
    """
    figure = draw(plot)
    figure.update_traces(visible="legendonly", selector={"marker.symbol": _START[1]})
    figure.update_layout(uirevision="|".join(series.label for series in plot.series), showlegend=len(plot.series) > 1)
    return figure
