"""How each method is drawn: Okabe-Ito colours, and a marker of its own for those who see none."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

GREY = "#808080"
VALIDATION_COLOUR = "#E69F00"
TEST_COLOUR = "#0072B2"
# Of runs beside each other: Okabe and Ito's, without yellow.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Colours of heat maps, readable in every kind of colour blindness: blue to orange through white, and cividis.
DIVERGING = [(0.0, "#0072B2"), (0.5, "#F7F7F7"), (1.0, "#D55E00")]
# Of counts, none of which is blank: light, so that dark digits can be read on them.
COUNTS = [(0.0, "#FBE9DD"), (1.0, "#E8955A")]
SEQUENTIAL = [(0.0, "#00224E"), (0.25, "#35456C"), (0.5, "#7C7B78"), (0.75, "#BCAF6F"), (1.0, "#FEE838")]


class MethodStyle(NamedTuple):
    """Display name, colour, and the marker as matplotlib and as plotly name it."""

    label: str
    colour: str
    marker: str
    symbol: str


_LOOKS = {
    "best-individual": (GREY, "o", "circle"),
    "best-individual-renewed": (GREY, "s", "square"),
    "uniform": ("#E69F00", "s", "square"),
    "greedy": ("#0072B2", "o", "circle"),
    "learned": ("#56B4E9", "v", "triangle-down"),
    "learned-plus": ("#56B4E9", "D", "diamond"),
    "hl": ("#CC79A7", "v", "triangle-down"),
    "hl-plus": ("#CC79A7", "D", "diamond"),
    "mehl": ("#009E73", "^", "triangle-up"),
    "mehl-plus": ("#D55E00", "D", "diamond"),
    "mehl-plus-greedy": ("#009E73", "p", "pentagon"),
    "ensemble": ("#CC79A7", "P", "cross"),
    "greedy-ensemble": ("#CC79A7", "X", "x"),
    "wise-ft": ("#E69F00", "*", "star"),
}
# For methods that are not known here: other markers, other colours, which stand out on light and on dark.
_MARKERS = (
    ("h", "hexagon"),
    ("<", "triangle-left"),
    (">", "triangle-right"),
    ("8", "octagon"),
    ("d", "diamond-tall"),
)
_COLOURS = ("#8F6BD1", "#8A8A2A", "#A5673F", "#2A9D9D", "#D1495B", "#6A7FB0")


def style(method: str, labels: Mapping[str, str]) -> MethodStyle:
    """How to draw a method on a page where methods have these ``labels``; without one it goes by its own name."""
    return MethodStyle(labels.get(method, method), *(_LOOKS.get(method) or _own_look(method, labels)))


def _own_look(method: str, labels: Mapping[str, str]) -> tuple[str, str, str]:
    """The look of a method that is not known here, the same on every page with the same labels.

    Of methods with labels up to 30 look different from each other (5 markers times 6 colours); one without gets its
    look by chance.
    """
    unknown = sorted(labels.keys() - _LOOKS.keys())
    number = unknown.index(method) if method in unknown else zlib.crc32(method.encode())
    return _COLOURS[number % len(_COLOURS)], *_MARKERS[number % len(_MARKERS)]
