"""Pieces of HTML. Whatever is passed in as text is escaped here, so that callers cannot forget it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

from pipeline.report.plot import LinePlot, Plot

_NUMBER_AND_UNIT = re.compile(r"(\d) (?=(?:s|min|h|%|GPU|CPU|images?|texts?|points?)(?!\w))")


class Link(NamedTuple):
    """A cell that leads to a run in MLflow's UI, if that has an address."""

    text: str
    address: str | None


Cell: TypeAlias = str | Link


class Column(NamedTuple):
    """A column's heading, and whether its cells are numbers (aligned right)."""

    title: str
    numeric: bool = True


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell]],
    marked: Collection[int] = (),
    source: str = "",
) -> str:
    """A table of plain text in a box that scrolls sideways; the first cell of a row is its heading.

    ``marked`` has the numbers of rows to set apart, ``source`` is the file that holds the numbers.
    """
    heads = "".join(f'<th scope="col"{_align(column)}>{escape(column.title)}</th>' for column in columns)
    body = []
    for index, row in enumerate(rows):
        first, *rest = (f"{_align(column)}>{text_of(cell)}" for column, cell in zip(columns, row, strict=True))
        cells = "".join(f"<td{cell}</td>" for cell in rest)
        mark = ' class="champion"' if index in marked else ""
        body.append(f'<tr{mark}><th scope="row"{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}{_origin(source)}</span></caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def facts(pairs: Iterable[tuple[str, str]], css_class: str) -> str:
    """A list of names and values, all plain text."""
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="{css_class}">{items}</dl>'


def chart(plot: Plot) -> str:
    """The place where a plot is drawn, with a description for those who do not see it, and its data to take away."""
    data = f"data:text/csv;charset=utf-8,{quote(plot.csv())}"
    kind, size = "chart map", ""
    if isinstance(plot, LinePlot):
        kind = "chart rows" if plot.ticks else "chart"
        size = f' style="--rows: {len(plot.ticks)}; --legend: {len(plot.series)}"'
    return (
        f'<figure><div class="{kind}"{size} id="{chart_id(plot)}" role="img" '
        f'aria-label="{escape(plot.description)}"></div><figcaption>'
        f"{escape(plot.description)}{_origin(plot.source)}. "
        f'<a download="{plot.name}.csv" href="{data}">Its data as CSV</a></figcaption></figure>'
    )


def chart_id(plot: Plot) -> str:
    """The id of the element that a plot is drawn into."""
    return f"{plot.name}-chart"


def paragraph(text: str, css_class: str = "") -> str:
    """A paragraph of plain text, in which no line ends between a number and its unit."""
    content = _NUMBER_AND_UNIT.sub(r"\1&nbsp;", escape(text))
    return f'<p class="{css_class}">{content}</p>' if css_class else f"<p>{content}</p>"


def folded(summary: str, *content: str) -> str:
    """HTML that is shown once ``summary``, plain text, is touched."""
    return f"<details><summary>{escape(summary)}</summary>{''.join(content)}</details>"


def section(section_id: str, title: str, *content: str) -> str:
    """A section of the page under its heading; ``content`` is HTML."""
    return f'<section id="{section_id}"><h2>{escape(title)}</h2>{"".join(content)}</section>'


def _origin(source: str) -> str:
    return f" (<code>{escape(source)}</code>)" if source else ""


def text_of(cell: Cell) -> str:
    """A cell as HTML; a link opens beside the page."""
    text, address = (cell, None) if isinstance(cell, str) else cell
    opens = 'target="_blank" rel="noopener"'
    return f'<a href="{escape(address)}" {opens}>{escape(text)}</a>' if address else escape(text)


def _align(column: Column) -> str:
    return ' class="number"' if column.numeric else ""
