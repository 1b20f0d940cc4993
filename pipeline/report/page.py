"""The HTML page as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from string import Template

from pipeline.records import RunRecord, RunResults
from pipeline.report.markup import chart_id, facts, section
from pipeline.report.plot import Plot
from pipeline.report.sections import SECTIONS
from pipeline.report.stylesheet import STYLESHEET

# The policy makes the promise of "no network" one that the browser keeps.
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>$name: soup report</title>
<style>$stylesheet</style>
</head>
<body>
<header>
<p class="kind">$kind</p>
<h1>$name</h1>
$facts
<nav aria-label="Contents"><ul>$contents</ul></nav>
$noscript
</header>
<main>$sections</main>
<footer><p>Every number comes from the records beside this page.</p></footer>
$scripts
</body>
</html>
""")

_NOSCRIPT = (
    "<noscript><p>The charts need JavaScript; the folder figures beside this page holds images of them.</p></noscript>"
)

# A chart keeps the width of the window when it is printed; paper is narrower than most windows.
_PRINT_SCRIPT = """
const charts = document.querySelectorAll(".chart");
const is = (chart, kind) => chart.classList.contains(kind);
const height = chart => is(chart, "rows") ? chart.clientHeight : is(chart, "map") ? 480 : 400;
addEventListener("beforeprint", () =>
  charts.forEach(chart => Plotly.relayout(chart, { width: 660, height: height(chart) })));
addEventListener("afterprint", () => charts.forEach(chart => Plotly.relayout(chart, { width: null, height: null })));
"""


def page(results: RunResults) -> str:
    """The report as one self-contained HTML document."""
    html: dict[str, str] = {}
    plots: list[Plot] = []
    for name, part in SECTIONS.items():
        drawn = {plot.name: plot for plot in part.plots(results)}
        plots += drawn.values()
        if body := part.body(results, drawn):
            anchor = part.anchor or name
            html[anchor] = section(anchor, part.title.replace("{metric}", results.run.metric_label), body)
    return document(results.run.name, "Model soup report", facts(_origin(results.run), "facts"), html, plots)


def document(name: str, kind: str, head: str, sections: Mapping[str, str], plots: Iterable[Plot]) -> str:
    """A page: a heading, its sections (HTML) by id, those ``plots`` that they have places for.

    plotly.js is inlined once, and only where there is a chart.
    """
    body = "\n".join(sections.values())
    charts = [plot for plot in plots if f'id="{chart_id(plot)}"' in body]
    return _PAGE.substitute(
        name=escape(name),
        kind=escape(kind),
        stylesheet=STYLESHEET,
        facts=head,
        contents="".join(_link(anchor) for anchor in sections if anchor != "overview"),
        noscript=_NOSCRIPT if charts else "",
        sections=body,
        scripts=_scripts(charts) if charts else "",
    )


def _scripts(plots: Iterable[Plot]) -> str:
    """plotly.js, and what it draws."""
    # Only now: the table of methods in the terminal needs none of it.
    from plotly.offline import get_plotlyjs

    from pipeline.report.charts import draw, script

    drawing = "\n".join([*(script(chart_id(plot), draw(plot)) for plot in plots), _PRINT_SCRIPT])
    return f"<script>{get_plotlyjs()}</script>\n<script>{drawing}</script>"


def _link(anchor: str) -> str:
    """An entry of the list of contents."""
    return f'<li><a href="#{anchor}">{anchor.replace("-", " ").capitalize()}</a></li>'


def _origin(run: RunRecord) -> list[tuple[str, str]]:
    """When, from what and where the run was made."""
    return [
        ("Started", _moment(run.started)),
        ("Commit", run.git_commit[:12] if run.git_commit else "not in a git repository"),
        ("Machine", run.machine),
        ("Seed", str(run.seed)),
        ("Arithmetic", run.precision),
    ]


def _moment(text: str) -> str:
    """An ISO 8601 time to the minute with its zone; any other text as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()
