"""The trials of the sweep as points in search order, and why some gave no ingredient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from pipeline.records import IngredientRecord, RunResults, costs
from pipeline.records.hyperparameters import named, shown
from pipeline.report.formats import capital, percent, spent
from pipeline.report.markup import chart, paragraph
from pipeline.report.methods import champion_of
from pipeline.report.plot import LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.styles import GREY, TEST_COLOUR, VALIDATION_COLOUR, style

_NAME = "ingredients"


class Trials(NamedTuple):
    """The trials in search order: those that soups are made of and those that they are not.

    ``floor`` is the score at which the latter are marked, below all others.
    """

    finished: list[IngredientRecord]
    without: list[IngredientRecord]
    floor: float


def trials(ingredients: Sequence[IngredientRecord]) -> Trials:
    """Sort the trials into those that soups are made of and the others."""
    rows = sorted(ingredients, key=lambda row: row.trial_index)
    finished = [row for row in rows if row.is_ingredient]
    values = [v for row in finished for v in (row.val_score, row.test_score) if v is not None] or [0.0]
    span = max(values) - min(values)
    lowest = 0.0 if min(values) >= 0 else -1.0  # that there can be
    floor = max(lowest, min(values) - max(0.1 * span, 0.005))
    return Trials(finished, [row for row in rows if not row.is_ingredient], floor)


def _plots(results: RunResults) -> list[Plot]:
    return [_in_search_order(results)] if results.ingredients else []


def _in_search_order(results: RunResults) -> LinePlot:
    """Every trial in search order; those that no soup is made of are marked below all others."""
    rows = trials(results.ingredients)
    series = []
    for label, name, marker, symbol, colour in (
        ("Validation", "val_score", "s", "square-open", VALIDATION_COLOUR),
        ("Test", "test_score", "o", "circle", TEST_COLOUR),
    ):
        known = [row for row in rows.finished if getattr(row, name) is not None]
        accuracies = [getattr(row, name) for row in known]
        series.append(_trial_points(label, colour, marker, symbol, known, accuracies))
    if rows.without:
        floor = [rows.floor] * len(rows.without)
        series.append(_trial_points("In no soup", GREY, "x", "x-thin", rows.without, floor))
    champion = champion_of(results.run, results.soups)
    if champion is not None:
        look, indices = style(champion.method, results.run.labels), [row.trial_index for row in results.ingredients]
        ends = [min(indices) - 0.5, max(indices) + 0.5]
        level = [100 * champion.test_score] * 2
        line = Series("Champion (test)", look.colour, "", "circle", ends, level, line="dash", points=False)
        series.append(line)
    label = results.run.metric_label
    what = f"Validation and test {label} of every trial in search order"
    y_title = f"{capital(label)} (%)"
    return LinePlot(_NAME, what, "Trial, in search order", y_title, series, whole_x=True, source="ingredients.parquet")


def _trial_points(
    label: str,
    colour: str,
    marker: str,
    symbol: str,
    rows: Sequence[IngredientRecord],
    accuracies: Sequence[float],
) -> Series:
    return Series(
        label, colour, marker, symbol,
        x=[row.trial_index for row in rows],
        y=[100 * accuracy for accuracy in accuracies],
        line=None,
        hover=[_trial_hover(row) for row in rows],
    )  # fmt: skip


def _trial_hover(row: IngredientRecord) -> str:
    """What a trial came to, what it cost and its hyperparameters, in plotly's markup."""
    lines = [f"<b>Trial {row.trial_index}</b>, {row.status}"]
    if row.is_ingredient:
        lines.append(f"validation {percent(row.val_score)} %, test {percent(row.test_score)} %")
    elif row.reason:
        lines.append(escape(row.reason if len(row.reason) <= 60 else f"{row.reason[:57]}..."))
    if row.device == "imported":
        return "<br>".join([*lines, spent(costs([row])), "imported"])
    known = [name for name in shown(row.hyperparameters) if row.hyperparameters[name] is not None]
    pairs = [known[start : start + 2] for start in range(0, len(known), 2)]
    return "<br>".join([*lines, spent(costs([row])), *(escape(named(row.hyperparameters, pair)) for pair in pairs)])


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    if not results.ingredients:
        return paragraph("No trial has run yet: run the search stage (--stages search).")
    rows = trials(results.ingredients)
    content = [
        paragraph("Every trial of the sweep. Touch a point, or hover over it, for its hyperparameters."),
        chart(plots[_NAME]),
    ]
    if rows.without:
        items = "".join(
            f"<li>Trial {row.trial_index} ({row.status}): {escape(row.reason or 'no reason recorded')}</li>"
            for row in rows.without
        )
        content.append(f"<h3>Trials that no soup is made of</h3><ul>{items}</ul>")
    return "".join(content)


SECTION = Section("Ingredients", _body, _plots)
