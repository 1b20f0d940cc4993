"""What a figure shows, apart from how it is drawn: `charts` draws it on the page, `figures` into files."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.report.styles import COUNTS, DIVERGING, SEQUENTIAL

Side: TypeAlias = Literal["above", "below"] | None


@dataclass(frozen=True)
class Series:
    """Points in order, their accuracies in per cent.

    ``low`` and ``high`` are a 95 % interval at each point, or hold 95 % of several curves; they are drawn as a ``band``
    or as bars. ``numbers`` are written ``above`` or ``below`` their points (``sides``), ``hover`` is what a point
    tells, in plotly's markup.
    """

    label: str
    colour: str
    marker: str
    symbol: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    band: bool = False
    line: Literal["solid", "dash", "step"] | None = "solid"
    points: bool = True
    numbers: Sequence[str] = ()
    sides: Sequence[Side] = ()
    hover: Sequence[str] = ()


@dataclass(frozen=True)
class LinePlot:
    """Series over a common axis; ``source`` is where the numbers are.

    With ``ticks`` x counts these named values, which are drawn as rows from above, with y to the right: names have room
    there. ``from_zero`` has the x axis begin just below 0.
    """

    name: str
    description: str
    x_title: str
    y_title: str
    series: Sequence[Series]
    source: str = ""
    ticks: Sequence[str] = ()
    whole_x: bool = False
    from_zero: bool = False

    def x_range(self) -> tuple[float, float] | None:
        """The ends of the x axis, where they do not follow from the points: what is at an end is not cut off there."""
        last = max((x for series in self.series for x in series.x), default=0.0)
        return (-0.04 * last, 1.06 * last) if self.from_zero and last else None

    def csv(self) -> str:
        """The points as a table."""
        rows = [
            (series.label, self.ticks[round(x)] if self.ticks else x, y, *interval)
            for series in self.series
            for x, y, *interval in zip(
                series.x, series.y, *([series.low, series.high] if series.low else []), strict=True
            )
        ]
        return _csv(("series", self.x_title, self.y_title, "low", "high"), rows)


@dataclass(frozen=True)
class HeatMap:
    """A matrix with named rows and columns; colours are symmetric around ``centre`` where there is one.

    Without one they end at ``ends``, or at the smallest and the largest value. ``counts`` are written in their cells,
    and 0 leaves its cell blank: no legend of colours is needed.
    """

    name: str
    description: str
    x_title: str
    y_title: str
    value_title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    centre: float | None = None
    source: str = ""
    ends: tuple[float, float] | None = None
    counts: bool = False

    def csv(self) -> str:
        """The matrix as a table."""
        body = [(name, *values) for name, values in zip(self.rows, self.values, strict=True)]
        return _csv((f"{self.y_title} / {self.x_title}", *self.columns), body)

    def drawn(self) -> list[list[float | None]]:
        """The values that have a colour."""
        return [[None if self.counts and value == 0 else value for value in row] for row in self.values]

    def scale(self) -> list[tuple[float, str]]:
        """The colours from the low end to the high one, as shares of the way and their colours."""
        return COUNTS if self.counts else DIVERGING if self.centre is not None else SEQUENTIAL

    @staticmethod
    def ticks(names: Sequence[str]) -> dict[int, str]:
        """By index at most 24 of the names, long ones by their end alone."""
        step = -(-len(names) // 24)
        return {
            index: name if len(name) <= 18 else f"…{name[-17:]}"
            for index, name in enumerate(names)
            if index % step == 0
        }

    def span(self) -> tuple[float, float]:
        """The values at the two ends of the colours."""
        known = [value for row in self.values for value in row if value is not None]
        if self.centre is None:
            return self.ends or (min(known), max(known))
        reach = max(abs(value - self.centre) for value in known) or 1.0
        return self.centre - reach, self.centre + reach


Plot: TypeAlias = LinePlot | HeatMap


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()
