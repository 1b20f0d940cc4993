"""Several runs on one page: the same methods side by side, and their cost curves together."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from pipeline.digits import significant
from pipeline.metrics import ACCURACY
from pipeline.records import CostRecord, RunResults, cost_unit, costs
from pipeline.report.cost_lines import cost_series
from pipeline.report.formats import MISSING, between, count, percent
from pipeline.report.intervals import exact_size
from pipeline.report.markup import Column, chart, facts, paragraph, section, table
from pipeline.report.methods import champion_of
from pipeline.report.page import document
from pipeline.report.plot import LinePlot, Series
from pipeline.report.starting_point import LABEL, start_series
from pipeline.report.styles import RUN_COLOURS, style

_NAME = "Comparison of runs"

# What a run is called on the page, and its records.
Named: TypeAlias = tuple[str, RunResults]


def comparison_page(runs: Sequence[RunResults]) -> str:
    """The runs as one self-contained HTML document."""
    named = list(zip(_names(runs), runs, strict=True))
    curves = _curves(named)
    sections = {
        "overview": section("overview", "Overview", paragraph(_summary(named), "lead"), _runs_table(named)),
        "methods": section(
            "methods",
            "Methods",
            _methods_table(named),
            paragraph(
                "A method of which every run has a soup is averaged over the runs, with its standard deviation.", "note"
            ),
        ),
        "cost": section("cost", f"Cost against {_metric(named)}", chart(curves)) if curves.series else "",
    }
    head = facts([(name, results.run.sweep_id) for name, results in named], "facts")
    return document(_NAME, "Model soup report", head, sections, [curves] if curves.series else [])


def _names(runs: Sequence[RunResults]) -> list[str]:
    """What the runs are called; where names repeat, with their sweep."""
    names = [results.run.name for results in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({results.run.sweep_id})"
        for name, results in zip(names, runs, strict=True)
    ]


def _metric(named: Sequence[Named]) -> str:
    """What decides, in words: of runs that do not agree, all that there is."""
    return " or ".join(dict.fromkeys(results.run.metric_label for _, results in named))


def _labels(named: Sequence[Named]) -> dict[str, str]:
    """The display names of the methods of all runs."""
    return {method: label for _, results in named for method, label in results.run.labels.items()}


def _summary(named: Sequence[Named]) -> str:
    """Which champion to take, decided on `select` as the champions themselves are; what it has on test beside it."""
    champions = [(champion_of(results.run, results.soups), name) for name, results in named]
    known = [(champion, name) for champion, name in champions if champion is not None]
    if len(labels := {results.run.metric_label for _, results in named}) > 1:
        return f"The runs are decided by different metrics ({', '.join(sorted(labels))}), which do not compare."
    if not known:
        return f"{count(len(named), 'run')}, none with a champion yet."
    chosen = [(row.select_score, row, name) for row, name in known if row.select_score is not None]
    if len(chosen) < len(known):
        scores = "accuracies" if _metric(named) == ACCURACY else "scores"
        return f"Not every run has a select split to choose on; the test {scores} below decide nothing."
    reached, champion, name = max(chosen, key=lambda one: one[0])
    label = style(champion.method, _labels(named)).label
    best = f"{label} of {name} has the highest select {_metric(named)} of a champion: {percent(reached)} %"
    best += f"; on test it reaches {percent(champion.test_score)} %."
    differ = [what for split, what in (("select", "chosen"), ("test", "tested")) if len(_image_sets(named, split)) > 1]
    if differ:
        best += f" The champions were {' and '.join(differ)} on different data, so small differences say nothing."
    return best


def _image_sets(named: Sequence[Named], name: str) -> set[tuple[object, ...]]:
    """What tells the images of this split apart in the runs."""
    return {
        (*results.run.class_names, split.size, split.indices_sha256)
        for _, results in named
        for split in results.run.splits
        if split.name == name
    }


def _runs_table(named: Sequence[Named]) -> str:
    headings = ("Test %", "95 % interval", "Trials", "Cost", "Unit")
    columns = [Column("Run", False), Column("Champion", False), *map(Column, headings)]
    labels, rows = _labels(named), []
    for name, results in named:
        champion, images = champion_of(results.run, results.soups), exact_size(results.run)
        rows.append(
            (
                name,
                style(champion.method, labels).label if champion else MISSING,
                percent(champion.test_score) if champion else MISSING,
                between(champion.test_score, images) if champion else MISSING,
                str(len(results.ingredients)),
                " and ".join(map(significant, costs(results.ingredients).values())) or significant(0),
                " and ".join(costs(results.ingredients)) or cost_unit(results.ingredients),
            )
        )
    return table("The runs and their champions", columns, rows, source="run.json")


def _methods_table(named: Sequence[Named]) -> str:
    methods = dict.fromkeys(soup.method for _, results in named for soup in results.soups)
    columns = [
        Column("Method", False),
        *(Column(name) for name, _ in named),
        Column("Mean"),
        Column("SD, pp"),
    ]
    labels, rows = _labels(named), []
    starts = [results.run.theta0_score("test") for _, results in named]
    found = [(LABEL, starts)] if any(start is not None for start in starts) else []
    for method in methods:
        tested = [
            next((soup.test_score for soup in results.soups if soup.method == method), None) for _, results in named
        ]
        found.append((style(method, labels).label, tested))
    for label, scores in found:
        known = [score for score in scores if score is not None]
        # Scores by different metrics have no mean.
        everywhere = len(known) == len(named) and len({results.run.metric for _, results in named}) == 1
        rows.append(
            (
                label,
                *map(percent, scores),
                percent(statistics.mean(known)) if everywhere else MISSING,
                f"{100 * statistics.stdev(known):.2f}" if everywhere and len(known) > 1 else MISSING,
            )
        )
    return table(f"Test {_metric(named)} (%) of each method", columns, rows, source="soups.parquet, run.json")


def _curves(named: Sequence[Named]) -> LinePlot:
    """The cost curve of every method that was followed: a colour per run, a marker per method."""
    labels, series = _labels(named), list[Series]()
    units = {cost_unit(results.ingredients) for _, results in named}
    for number, (name, results) in enumerate(named):
        colour = RUN_COLOURS[number % len(RUN_COLOURS)]
        costs, unit = results.table("cost_accuracy", CostRecord), cost_unit(results.ingredients)
        of_unit = f" ({unit})" if len(units) > 1 else ""
        for line in [*cost_series(costs, unit, labels), *(start_series(results, unit) if costs else [])]:
            label = f"{name}: {line.label}{of_unit}"
            series.append(replace(line, label=label, colour=colour, numbers=(), sides=()))
    x_title = f"Cost so far ({' or '.join(sorted(units))})"
    return LinePlot(
        "runs_cost_accuracy",
        f"Test {_metric(named)} against cost of every run",
        x_title,
        f"Test {_metric(named)} (%)",
        series,
        source="cost_accuracy.parquet",
    )
