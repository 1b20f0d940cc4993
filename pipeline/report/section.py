"""What a section of the page is; `sections` lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.records import RunResults
from pipeline.report.plot import Plot


def _none(results: RunResults) -> list[Plot]:
    return []


@dataclass(frozen=True)
class Section:
    """A section under the heading ``title``, in which ``{metric}`` stands for what decides.

    ``body`` is its HTML, made of the pieces in `markup`; "" leaves the section out. The figures that ``plots`` draws
    are handed to it by name, to be placed with `markup.chart`; they are written as files too. ``anchor`` is its id on
    the page and, with a capital, how the list of contents calls it, where that is not the name in `SECTIONS`.
    """

    title: str
    body: Callable[[RunResults, Mapping[str, Plot]], str]
    plots: Callable[[RunResults], list[Plot]] = _none
    anchor: str = ""
