"""The page: what is drawn on it, and drawn again when something new was read."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from dash import Dash, Input, Output, State, ctx, no_update
from flask import Response, abort, request

from pipeline.dashboard.figures import curves, line_figure
from pipeline.dashboard.figures import soups as soups_plot
from pipeline.dashboard.layout import INDEX, ORDER, PICTURE, SPLIT, came_to, first, layout, options
from pipeline.dashboard.parallel import parallel
from pipeline.dashboard.reader import Reader
from pipeline.dashboard.reader import State as Known
from pipeline.dashboard.shown import Shown, Split, shown
from pipeline.dashboard.tables import CSV_TABLES, Table, csv_of, facts_of, gains, soups, status_of, trials
from pipeline.errors import first_line
from pipeline.report import markup

logger = logging.getLogger(__name__)

_AXIS = 160  # pixels of a parallel coordinate at least: narrower, their names run into each other
_ZOOM = ("zoom2d", "pan2d", "resetScale2d")
_LOOPBACK = ["localhost", "127.0.0.1", "::1", "[::1]"]

# "Works without network" is a promise that the browser keeps.
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; frame-ancestors 'none'"
)

# In the browser: says so when this program has not answered for a while; its ticks go on.
_LOST = """
(tick, beat) => {
  const now = Date.now();
  if (window.lastBeat !== beat) { window.lastBeat = beat; window.lastHeard = now; }
  if (now - window.lastHeard < 30000) return "";
  return `The dashboard has not answered since ${new Date(window.lastHeard).toLocaleTimeString()}; ` +
    "what is shown is of then. Start it again, and this page goes on.";
}
"""

# In the browser: writes HTML into parts of the page. Made of Dash's parts, of which each listens to every change, a
# table of a hundred trials takes it half a second more.
_WRITE = """
parts => {
  for (const [part, text] of Object.entries(parts || {})) document.getElementById(part).innerHTML = text;
}
"""


def make_app(reader: Reader, names: Sequence[str] = (), *, loopback: bool = True) -> Dash:
    """The page over what ``reader`` reads; the latest sweeps of ``names`` are shown first, or the latest of all.

    On ``loopback`` only requests that name this machine are answered: no page of somebody else's can read from it.
    """
    errors = _Errors()
    app = Dash(
        "soup-dashboard",
        title="Soup dashboard",
        update_title="",
        index_string=INDEX,
        assets_folder="",
        include_assets_files=False,
        add_log_handler=False,
        enable_mcp=False,
        on_error=errors,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    if loopback:
        app.server.config["TRUSTED_HOSTS"] = _LOOPBACK
    app.layout = lambda: layout(reader, names)
    boot = secrets.token_hex(4)  # pages that were opened before a restart draw all again
    app.callback(
        output={name: Output(part, prop) for name, (part, prop) in _OUTPUTS.items()},
        inputs={
            "tick": Input("tick", "n_intervals"),
            "chosen": Input("chosen", "value"),
            "split": Input("split", "value"),
            "order": Input("order", "value"),
            "picture": Input("picture", "value"),
            "listed": State("listed", "data"),
            "drawn": State("drawn", "data"),
        },
    )(lambda tick, **given: _update(reader, boot, anew=ctx.triggered_id == "tick", **given))
    app.clientside_callback(_WRITE, Input("written", "data"))
    app.clientside_callback(_LOST, Output("lost", "children"), Input("tick", "n_intervals"), Input("beat", "data"))

    def take_away(table: str) -> Response:
        if table not in CSV_TABLES:
            abort(404)
        text = csv_of(table, shown(reader.state(request.args.getlist("sweep")).looks))
        headers = {"Content-Disposition": f'attachment; filename="{table}.csv"'}
        return Response(text, mimetype="text/csv", headers=headers)

    def protect(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    app.server.add_url_rule("/csv/<table>", view_func=take_away)
    app.server.after_request(protect)
    try:  # drawn once for nobody: the first page does not wait until its sweeps are read and what draws them is loaded
        given: Any = {"chosen": first(reader.state([]), names), "split": SPLIT, "order": ORDER, "picture": PICTURE}
        _update(reader, boot, anew=False, listed=None, drawn=None, **given)
    except Exception as error:  # of a sweep that cannot be drawn; others may be chosen
        errors(error)
    return app


class _Errors:
    """Tells of a mistake in this program once, not at every tick."""

    def __init__(self) -> None:
        self.told: str | None = None

    def __call__(self, error: Exception) -> None:
        if (text := f"{type(error).__name__}: {first_line(error)}") != self.told:
            logger.error("the page cannot be drawn (%s)", text, exc_info=error)
            self.told = text


def _chart_outputs(*names: str) -> dict[str, tuple[str, str]]:
    """By the name in what `_chart` returns: the part of the page, and which of its properties."""
    graph = {f"{name}_{prop}": (name, prop) for name in names for prop in ("figure", "config", "style")}
    return graph | {f"{name}_missing": (f"{name}-missing", "children") for name in names}


# By the name in what `_update` returns: the part of the page, and which of its properties.
_OUTPUTS = {
    "status": ("status", "children"),
    "away": ("away", "children"),
    "beat": ("beat", "data"),
    "listed": ("listed", "data"),
    "drawn": ("drawn", "data"),
    "options": ("chosen", "options"),
    "written": ("written", "data"),
    **{f"{table}_csv": (f"{table}-csv", "href") for table in CSV_TABLES},
    **_chart_outputs("curves", "parallel", "soups"),
}


def _update(
    reader: Reader,
    boot: str,
    *,
    anew: bool,
    chosen: list[str] | None,
    split: Split,
    order: str,
    picture: str,
    listed: str | None,
    drawn: str | None,
) -> dict[str, Any]:
    """What changes on a page whose list of sweeps is ``listed`` and whose rest is ``drawn``, as it said then.

    Nobody who opens or changes a page waits for a new read.
    """
    known = reader.state(chosen or [], anew=anew)
    answer: dict[str, Any] = dict.fromkeys(_OUTPUTS, no_update)
    answer |= {"status": _status(known), "away": _away(known), "beat": time.time()}
    to_list = str([boot, *([sweep.sweep_id, status_of(sweep), came_to(sweep)] for sweep in known.sweeps)])
    to_draw = str([boot, split, order, picture, list(known.stamps.items()), bool(known.sweeps)])
    if to_list != listed:
        answer |= {"listed": to_list, "options": options(known)}
    if to_draw != drawn:
        answer |= {"drawn": to_draw, **_draw(shown(known.looks), split, order, picture)}
        if not known.looks:
            why = "Choose a sweep." if known.sweeps else "The registry has no sweep yet."
            answer["written"]["facts"] = markup.paragraph(why)
    return answer


def _status(known: Known) -> str:
    """When the registry was last read."""
    read = f"{datetime.fromtimestamp(known.read).astimezone():%H:%M:%S %Z}"
    running = [look for look in known.looks.values() if look.sweep.is_running]
    return f"Read at {read}; goes on by itself{' while the sweep runs' if running else ''}."


def _away(known: Known) -> str:
    """Since when what is shown is old, and why; empty while the registry answers."""
    if known.away is None:
        return ""
    since = f"{datetime.fromtimestamp(known.read).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    return f"What is shown is of {since}, when the registry last answered. It is asked again: {known.away}"


def _draw(sweeps: Sequence[Shown], split: Split, order: str, picture: str) -> dict[str, Any]:
    """All of the page that depends on what its sweeps came to."""
    tables = {"gains": gains(sweeps), "trials": trials(sweeps, order), "soups": soups(sweeps)}
    written = {"facts": "".join(map(_card, sweeps))}
    written |= {f"{name}-table": _table(made) for name, made in tables.items()}
    answer: dict[str, Any] = {"written": written}
    lines: dict[str, Callable[..., Any]] = {"curves": curves, "soups": soups_plot}
    for name, make in lines.items():
        figure = line_figure(plot) if (plot := make(sweeps, split)).series else None
        answer |= _chart(name, figure, split, picture)
        if figure is not None and name == "curves":  # on a phone every name of the legend takes a line
            answer["curves_style"] = {"minHeight": f"{19 + 1.6 * len(figure.data):.1f}rem"}
    lines_of_trials = parallel(sweeps, split)
    answer |= _chart("parallel", lines_of_trials, split, picture)
    if lines_of_trials is not None:
        answer["parallel_style"] = {"minWidth": f"{_AXIS * len(lines_of_trials.layout.xaxis.tickvals)}px"}
    query = "&".join(f"sweep={sweep.look.sweep.sweep_id}" for sweep in sweeps)
    return answer | {f"{table}_csv": f"/csv/{table}?{query}" for table in CSV_TABLES}


# By chart: what stands in its place while there is nothing to draw.
_MISSING = {
    "curves": "No point of a cost curve on this split yet.",
    "parallel": "No trial with a score on this split yet.",
    "soups": "No soup measured on this split yet.",
}


def _chart(name: str, figure: Any, split: Split, picture: str) -> dict[str, Any]:
    """A chart, or that there is none yet (``figure`` is None)."""
    there = figure is not None
    return {
        f"{name}_figure": figure if there else {},
        f"{name}_config": _config(f"{name}-{split}", () if name == "parallel" else _ZOOM, picture),
        f"{name}_missing": "" if there else _MISSING[name],
        f"{name}_style": {} if there else {"display": "none"},
    }


def _config(name: str, buttons: Sequence[str], picture: str) -> dict[str, Any]:
    """Of plotly: its bar has these buttons alone (by itself it has one that sends the chart to a server of Plotly's).

    It is always there, as a finger hovers over nothing.
    """
    return {
        "displayModeBar": True,
        "displaylogo": False,
        "responsive": True,
        "modeBarButtons": [["toImage"], *([list(buttons)] if buttons else [])],
        "plotlyServerURL": "",
        "toImageButtonOptions": {"format": picture, "filename": name, "scale": 2},
    }


def _card(sweep: Shown) -> str:
    """One sweep in figures, as HTML."""
    page = sweep.look.sweep.page(sweep.look.sweep.run_id)
    link = f" {markup.text_of(markup.Link('in MLflow', page))}" if page else ""
    return f"<article><h3>{markup.text_of(sweep.title)}{link}</h3>{markup.facts(facts_of(sweep), 'facts')}</article>"


def _table(made: Table) -> str:
    """A table as HTML; nothing where it has no rows."""
    return markup.table(made.caption, made.columns, made.rows, made.marked) if made.rows else ""
