"""The HTML page as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from string import Template

from plotly.offline import get_plotlyjs

from pipeline.records import ComparisonRecord, CostRecord, IngredientRecord, RunRecord, SoupRecord
from pipeline.report.charts import cost_chart, ingredients_chart, script
from pipeline.report.markup import facts
from pipeline.report.overview import overview
from pipeline.report.sections import (
    COST_CHART,
    INGREDIENTS_CHART,
    comparisons_section,
    cost_section,
    ingredients_section,
    methods_section,
    splits_section,
    sweep_section,
    versions_section,
)
from pipeline.report.stylesheet import STYLESHEET

_CONTENTS = ("methods", "comparisons", "cost", "ingredients", "sweep", "splits", "versions")

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
<p class="kind">Model soup report</p>
<h1>$name</h1>
$facts
<nav aria-label="Contents"><ul>$contents</ul></nav>
</header>
<main>$sections</main>
<footer><p>Every number comes from the records beside this page.</p></footer>
$scripts
</body>
</html>
""")

# A chart keeps the width of the window when it is printed; paper is narrower than most windows.
_PRINT_SCRIPT = """
const charts = document.querySelectorAll(".chart");
addEventListener("beforeprint", () => charts.forEach(chart => Plotly.relayout(chart, { width: 660, height: 400 })));
addEventListener("afterprint", () => charts.forEach(chart => Plotly.relayout(chart, { width: null, height: null })));
"""


def page(
    run: RunRecord,
    ingredients: Sequence[IngredientRecord],
    soups: Sequence[SoupRecord],
    costs: Sequence[CostRecord],
    comparisons: Sequence[ComparisonRecord],
) -> str:
    """The report as one self-contained HTML document; plotly.js is inlined once, and only where there is a chart."""
    sections = [
        overview(run, ingredients, soups, comparisons),
        methods_section(run, soups),
        comparisons_section(run, soups, comparisons),
        cost_section(run, costs, ingredients),
        ingredients_section(ingredients),
        sweep_section(ingredients),
        splits_section(run),
        versions_section(run),
    ]
    statements = []
    if costs:
        statements.append(script(COST_CHART, cost_chart(costs, ingredients)))
    if ingredients:
        statements.append(script(INGREDIENTS_CHART, ingredients_chart(run, ingredients, soups)))
    drawing = "\n".join([*statements, _PRINT_SCRIPT])
    return _PAGE.substitute(
        name=escape(run.name),
        stylesheet=STYLESHEET,
        facts=facts(_origin(run), "facts"),
        contents="".join(f'<li><a href="#{name}">{name.capitalize()}</a></li>' for name in _CONTENTS),
        sections="\n".join(sections),
        scripts=f"<script>{get_plotlyjs()}</script>\n<script>{drawing}</script>" if statements else "",
    )


def _origin(run: RunRecord) -> list[tuple[str, str]]:
    """When, from what and where the run was made."""
    return [
        ("Started", _moment(run.started)),
        ("Commit", run.git_commit[:12] if run.git_commit else "not in a git repository"),
        ("Machine", run.machine),
        ("Seed", str(run.seed)),
    ]


def _moment(text: str) -> str:
    """An ISO 8601 time to the minute with its zone; any other text as it is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".strip()
