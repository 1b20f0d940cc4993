"""What the page is made of before anything is drawn on it: its parts, and the list of sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from string import Template
from typing import Any

from dash import dcc, html

from pipeline.dashboard.reader import Reader, State
from pipeline.dashboard.shown import SPLITS, Split, titles
from pipeline.dashboard.stylesheet import STYLESHEET
from pipeline.dashboard.tables import moment, status_of
from pipeline.registry import WatchedSweep, redact
from pipeline.report.formats import capital, percent

_TICK = 5000  # milliseconds
SPLIT: Split = "select"  # of a page that was just opened; so are these two
ORDER = "newest"
PICTURE = "png"

# In the browser: Dash gives the labels of its checkboxes and radio buttons roles of a list box, which hide from screen
# readers that there is something to check. Without the roles they are what they are.
_PLAIN_INPUTS = """
new MutationObserver(() => document.querySelectorAll(".dash-options-list, .dash-options-list-option").forEach(part => {
  part.removeAttribute("role");
  part.removeAttribute("aria-selected");
})).observe(document, { subtree: true, childList: true, attributeFilter: ["role", "aria-selected"] });
"""

INDEX = Template("""<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
<link rel="icon" href="data:,">
{%css%}
<style>$stylesheet</style>
<script>$plain_inputs</script>
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>
""").substitute(stylesheet=STYLESHEET, plain_inputs=_PLAIN_INPUTS)

_ABOUT_CURVES = (
    "Soups of the first trials in search order, against what all trials so far cost. Areas are 95 % intervals "
    "(Wilson's) for the size of the split. Select decides, test is only looked at. Touch a name to hide or show its "
    "line; the camera in a chart's corner saves a picture."
)

_ABOUT_PARALLEL = "A line per trial, the best above the others. Touch a range of scores to hide or show its lines."


def layout(reader: Reader, names: Sequence[str]) -> html.Div:
    """The page of somebody who opens it now, with places for what `page` draws."""
    known = reader.state([], anew=True)
    return html.Div(
        [
            html.Header(
                [
                    html.P(f"MLflow: {redact(reader.tracking_uri)}", className="kind"),
                    html.H1("Soup dashboard"),
                    html.P(id="status", className="note"),
                    html.P(id="away", className="alert", role="alert"),
                    html.P(id="lost", className="alert", role="alert"),
                ]
            ),
            html.Main(
                [
                    html.Section(
                        [
                            html.H2("Sweeps"),
                            html.Div(
                                dcc.Checklist(id="chosen", options=options(known), value=first(known, names)),
                                className="sweeps",
                                role="group",
                                **{"aria-label": "Sweeps that are shown"},
                            ),
                            html.Div(id="facts"),
                        ]
                    ),
                    html.Section(
                        [
                            html.H2("Cost"),
                            html.Div(
                                [
                                    _radio("split", "Measured on", [(name, capital(name)) for name in SPLITS], SPLIT),
                                    _radio("picture", "Pictures as", [("png", "PNG"), ("svg", "SVG")], PICTURE),
                                ],
                                className="controls",
                            ),
                            *_figure("curves"),
                            html.P(_ABOUT_CURVES, className="note"),
                            html.H3("What the stop rule sees"),
                            html.Div(id="gains-table"),
                            _link("curves"),
                        ]
                    ),
                    html.Section(
                        [
                            html.H2("Trials"),
                            html.Div(_figure("parallel"), className="scroll wide"),
                            html.P(_ABOUT_PARALLEL, className="note"),
                            _radio("order", "First", [("newest", "the newest"), ("best", "the best")], ORDER),
                            html.Div(id="trials-table"),
                            _link("trials"),
                        ]
                    ),
                    html.Section([html.H2("Soups"), *_figure("soups"), html.Div(id="soups-table"), _link("soups")]),
                ]
            ),
            dcc.Interval(id="tick", interval=_TICK),
            dcc.Store(id="listed"),
            dcc.Store(id="drawn"),
            dcc.Store(id="written"),
            dcc.Store(id="beat"),
        ]
    )


def first(known: State, names: Sequence[str]) -> list[str]:
    """The sweeps that a new page shows."""
    if not names:
        return [sweep.sweep_id for sweep in known.sweeps if not sweep.unreadable][:1]
    latest = {sweep.name: sweep.sweep_id for sweep in reversed(known.sweeps)}
    return [latest[name] for name in names if name in latest]


def options(known: State) -> list[dict[str, Any]]:
    """The list of sweeps to choose from, for Dash."""
    named = titles(known.sweeps)
    return [
        {
            "value": sweep.sweep_id,
            "disabled": bool(sweep.unreadable),
            "label": html.Span(
                [
                    html.B(named[sweep.sweep_id]),
                    html.Span(status_of(sweep), className=f"state{' running' if sweep.is_running else ''}"),
                    html.Span(sweep.unreadable or came_to(sweep), className="soft"),
                ]
            ),
        }
        for sweep in known.sweeps
    ]


def came_to(sweep: WatchedSweep) -> str:
    """When a sweep began, and what its champion has on test."""
    text = moment(sweep.started)
    value = sweep.metrics.get(sweep.metric("test_score"), sweep.metrics.get("test_accuracy"))
    champion = sweep.origin.get("champion")
    return f"{text}, {champion} {percent(value)} %" if champion and value is not None else text


def _radio(name: str, label: str, texts: Sequence[tuple[str, str]], value: str) -> html.Fieldset:
    choices = [{"value": choice, "label": text} for choice, text in texts]
    return html.Fieldset([html.Legend(label), dcc.RadioItems(id=name, options=choices, value=value, inline=True)])


def _figure(name: str) -> list[Any]:
    return [
        dcc.Graph(id=name, className="chart", responsive=True, style={"display": "none"}),
        html.P(id=f"{name}-missing", className="note"),
    ]


def _link(name: str) -> html.P:
    return html.P(html.A("All of it as CSV", id=f"{name}-csv"), className="note")
