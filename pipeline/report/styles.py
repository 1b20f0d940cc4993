"""What each method is called and how it is drawn: Okabe-Ito colours, and a marker of its own for those who see none."""

from __future__ import annotations

from typing import NamedTuple

GREY = "#808080"
VALIDATION_COLOUR = "#E69F00"
TEST_COLOUR = "#0072B2"
# Of runs beside each other: Okabe and Ito's, without yellow.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Colours of heat maps, readable in every kind of colour blindness: blue to orange through white, and cividis.
DIVERGING = [(0.0, "#0072B2"), (0.5, "#F7F7F7"), (1.0, "#D55E00")]
SEQUENTIAL = [(0.0, "#00224E"), (0.25, "#35456C"), (0.5, "#7C7B78"), (0.75, "#BCAF6F"), (1.0, "#FEE838")]


class MethodStyle(NamedTuple):
    """Display name, colour, and the marker as matplotlib and as plotly name it."""

    label: str
    colour: str
    marker: str
    symbol: str


_STYLES = {
    "best-individual": MethodStyle("Best individual", GREY, "o", "circle"),
    "uniform": MethodStyle("Uniform soup", "#E69F00", "s", "square"),
    "greedy": MethodStyle("Greedy soup", "#0072B2", "o", "circle"),
    "learned": MethodStyle("Learned-Soup", "#56B4E9", "v", "triangle-down"),
    "learned-plus": MethodStyle("Learned-Soup+", "#56B4E9", "D", "diamond"),
    "hl": MethodStyle("HL-Soup", "#CC79A7", "v", "triangle-down"),
    "hl-plus": MethodStyle("HL-Soup+", "#CC79A7", "D", "diamond"),
    "mehl": MethodStyle("MEHL-Soup", "#009E73", "^", "triangle-up"),
    "mehl-plus": MethodStyle("MEHL-Soup+", "#D55E00", "D", "diamond"),
    "mehl-plus-greedy": MethodStyle("MEHL-Soup+ from greedy", "#009E73", "p", "pentagon"),
    "ensemble": MethodStyle("Ensemble", "#CC79A7", "P", "cross"),
    "greedy-ensemble": MethodStyle("Greedy ensemble", "#CC79A7", "X", "x"),
    "wise-ft": MethodStyle("WiSE-FT", "#E69F00", "*", "star"),
}


def style(method: str) -> MethodStyle:
    """How to draw a method; one that is not known here goes by its own name, in grey."""
    return _STYLES.get(method, MethodStyle(method, GREY, "h", "hexagon"))
