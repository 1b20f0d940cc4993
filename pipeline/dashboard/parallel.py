"""Parallel coordinates: a line per trial through its hyperparameters to what it came to.

Drawn as ordinary lines: plotly's own kind needs WebGL, which takes a browser without a GPU two seconds for one line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from pipeline.dashboard.shown import Shown, Split
from pipeline.digits import apart, significant
from pipeline.records import IngredientRecord, Scalar, cost_unit, costs, title_of
from pipeline.records.hyperparameters import compared, shown
from pipeline.records.types import score
from pipeline.report.charts import empty
from pipeline.report.formats import MISSING, capital, percent

_OWN = "seed"  # a hyperparameter that every trial has another value of
_WIDE = 30.0  # times: values that span more are drawn on a logarithmic axis
_TICKS = 8  # numbers that are written at an axis, about
_NAMES = 16  # names that are written at an axis at most
_LONGEST = 20  # characters of one
_SHADES = 6
# From the worst to the best trials: both ends, and what is between, can be seen on light and on dark.
_COLOURS = sample_colorscale(["rgb(0,114,178)", "rgb(154,143,135)", "rgb(213,94,0)"], _SHADES)


class Line(NamedTuple):
    """A trial that is drawn; ``value`` is its score on the split, from 0 to 1."""

    sweep: Shown
    row: IngredientRecord
    value: float


class Axis(NamedTuple):
    """An axis: per line its place, from 0 at the bottom to 1 (NaN: not known), and its value; what is written."""

    label: str
    places: Sequence[float]
    values: Sequence[str]
    ticks: Sequence[tuple[float, str]]


def parallel(sweeps: Sequence[Shown], split: Split) -> go.Figure | None:
    """A line per trial through the values of the hyperparameters in which trials differ, its cost and its score.

    The axes stand at x = 0, 1, ... A trace holds the lines of about a sixth of the trials, the best sixth the last;
    touching its name in the legend hides it. None while no trial has a score on the split.
    """
    lines = [
        Line(sweep, row, value)
        for sweep in sweeps
        for row in sweep.look.trials.values()
        if (value := score(row, split)) is not None
    ]
    if not lines:
        return None
    lines.sort(key=lambda line: line.value)
    axes = list(_axes(lines, split))
    figure = empty("", "")
    opacity = min(1.0, max(0.3, 10 / math.sqrt(len(lines))))  # of many lines, so that where they are many can be seen
    for shade, places in _shaded(lines):
        colour = _COLOURS[shade].replace("rgb(", "rgba(").replace(")", f", {opacity:.2f})")
        _add_lines(figure, axes, lines, places, colour)
    ticks = [(x, y, text) for x, axis in enumerate(axes) for y, text in axis.ticks]
    figure.add_scatter(
        x=[x for x, _, _ in ticks],
        y=[y for _, y, _ in ticks],
        text=[f"\u2009{escape(text)}" for _, _, text in ticks],  # a thin space: clear of the axis
        mode="text",
        textposition="middle right",
        textfont={"size": 11},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(
        margin={"l": 60, "r": 10, "t": 60},
        legend={"traceorder": "reversed", "y": 0, "yanchor": "top"},
        hovermode="closest",
        uirevision="|".join(sweep.title for sweep in sweeps),
    )
    names = [escape(axis.label) for axis in axes]
    figure.update_xaxes(side="top", tickvals=list(range(len(axes))), ticktext=names, tickangle=0, automargin=False)
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.8)", range=[-0.1, len(axes) - 0.6])
    figure.update_yaxes(visible=False, range=[-0.04, 1.04])
    return figure


def _shaded(lines: Sequence[Line]) -> Iterator[tuple[int, list[int]]]:
    """By shade, from the worst: the places of the ``lines``, which are sorted; equal values have one shade."""
    shades: dict[float, int] = {}
    for place, line in enumerate(lines):
        shades[line.value] = _SHADES * (place + 1) // (len(lines) + 1)
    for shade in dict.fromkeys(shades.values()):
        yield shade, [place for place, line in enumerate(lines) if shades[line.value] == shade]


def _add_lines(
    figure: go.Figure, axes: Sequence[Axis], lines: Sequence[Line], places: Sequence[int], colour: str
) -> None:
    """A trace of the lines at ``places``, parted by gaps."""
    ends = list(dict.fromkeys(percent(lines[place].value) for place in (places[0], places[-1])))
    told = [f"<b>{_name(lines[place])}</b><br>{percent(lines[place].value)} %" for place in places]
    figure.add_scatter(
        x=np.tile([*range(len(axes)), np.nan], len(places)),
        y=np.array([[*(axis.places[place] for axis in axes), np.nan] for place in places]).ravel(),
        name=f"{' to '.join(ends)} %",
        mode="lines",
        line={"color": colour, "width": 1.2},
        customdata=np.array(
            [
                [*(f"{of_trial}<br>{escape(axis.label)} {escape(axis.values[place])}" for axis in axes), ""]
                for place, of_trial in zip(places, told, strict=True)
            ],
            dtype=object,
        ).ravel(),
        hovertemplate="%{customdata}<extra></extra>",
    )


def _name(line: Line) -> str:
    trial = f"trial {line.row.trial_index}"
    return trial if line.sweep.alone else f"{escape(line.sweep.title)}, {trial}"


def _axes(lines: Sequence[Line], split: Split) -> Iterator[Axis]:
    rows = [line.row for line in lines]
    trials = [row.hyperparameters for row in rows]
    if not lines[0].sweep.alone:
        yield _named("Sweep", [line.sweep.title for line in lines])
    texts = [shown(trial) for trial in trials]
    for name in compared(trials).differing:
        if name != _OWN:
            values = [text.get(name, MISSING) for text in texts]
            numbers = _numbers(trial.get(name) for trial in trials)
            yield _measured(title_of(name), numbers, values) if numbers else _named(title_of(name), values)
    unit = cost_unit(rows)
    hours = [costs([row]).get(unit, 0.0) for row in rows]
    yield _measured(unit, hours, list(map(significant, hours)))
    scores = [line.value for line in lines]
    yield _measured(f"{capital(split)} %", [100 * value for value in scores], list(map(percent, scores)))


def _numbers(values: Iterable[Scalar]) -> list[float | None]:
    """The values if they are numbers, where they are known and finite; nothing otherwise."""
    numbers: list[float | None] = []
    for value in values:
        if isinstance(value, bool | str):
            return []
        numbers.append(value if value is not None and math.isfinite(value) else None)
    return numbers if any(number is not None for number in numbers) else []


def _named(label: str, values: Sequence[str]) -> Axis:
    """An axis of names in alphabetical order."""
    names = sorted(set(values))
    places = {name: number / max(len(names) - 1, 1) for number, name in enumerate(names)}
    written = names[:: math.ceil(len(names) / _NAMES)]
    ticks = [(places[name], name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…") for name in written]
    return Axis(label, [places[value] for value in values], values, ticks)


def _measured(label: str, numbers: Sequence[float | None], values: Sequence[str]) -> Axis:
    """An axis of numbers, or of their logarithms where they span much."""
    different = sorted({number for number in numbers if number is not None})
    low, high = different[0], different[-1]
    scale = math.log10 if low > 0 and high / low >= _WIDE else float
    if scale is math.log10:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        at = [10.0**power for power in range(first, last + 1, max(1, (last - first) // _TICKS))]
        written = [f"{number:g}" for number in at]
    elif len(different) <= _TICKS:
        at, written = different, apart(different)
    else:
        least = (high - low) / _TICKS
        power = 10.0 ** math.floor(math.log10(least))
        step = power * next(times for times in (1, 2, 5, 10) if power * times >= least)
        at = [step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)]
        written = apart(at)
    bottom, top = scale(min(low, at[0])), scale(max(high, at[-1]))

    def place(value: float) -> float:
        return round((scale(value) - bottom) / (top - bottom), 4) if top > bottom else 0.5

    places = [math.nan if number is None else place(number) for number in numbers]
    return Axis(label, places, values, list(zip(map(place, at), written, strict=True)))
