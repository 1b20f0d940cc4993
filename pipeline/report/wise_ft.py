"""Models between the starting point and the soups (App. D of the model-soups paper)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from html import escape

from pipeline.records import RunResults, VariantRecord
from pipeline.report.intervals import exact_size
from pipeline.report.markup import Column, chart, paragraph
from pipeline.report.measured import accuracy_series, by_method, test_title, variants_table
from pipeline.report.plot import LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.styles import style

_NAME = "wise_ft"


def _plots(results: RunResults) -> list[Plot]:
    variants = results.table(_NAME, VariantRecord)
    plots: list[Plot] = [_against_alpha(results)] if variants else []
    return [*plots, _against_shifts(results)] if any(row.shift_scores for row in variants) else plots


def _against_alpha(results: RunResults) -> LinePlot:
    images = exact_size(results.run)
    series = []
    for method, rows in by_method(results.table(_NAME, VariantRecord)).items():
        look, x = style(method, results.run.labels), [float(row.value) for row in rows]
        series.append(accuracy_series(look, x, [row.test_score for row in rows], images, band=True))
    what = f"Test {results.run.metric_label} between the starting point and each soup"
    y_title = test_title(results.run)
    return LinePlot(_NAME, what, "alpha (0: starting point, 1: soup)", y_title, series, source="wise_ft.parquet")


def _against_shifts(results: RunResults) -> LinePlot:
    """Fig. D.1: accuracy under shift against test accuracy, from theta0 to each soup."""
    series = []
    for method, rows in by_method(results.table(_NAME, VariantRecord)).items():
        look = style(method, results.run.labels)
        series.append(
            Series(
                *look,
                x=[100 * row.test_score for row in rows],
                y=[100 * statistics.mean(row.shift_scores.values()) for row in rows],
                hover=[f"<b>{escape(look.label)}</b><br>alpha {row.value}" for row in rows],
            )
        )  # fmt: skip
    label, x_title = results.run.metric_label, test_title(results.run)
    what = f"Mean {label} on the shifts against test {label}, from the starting point (alpha 0) to each soup (1)"
    return LinePlot(
        "wise_ft_shifts", what, x_title, f"Mean {label} on the shifts (%)", series, source="wise_ft.parquet"
    )


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    variants = results.table(_NAME, VariantRecord)
    if not variants:
        return ""
    caption = "Models between theta0 and the soups"
    content = [
        paragraph(
            "WiSE-FT: the weights (1 - alpha) theta0 + alpha soup. BatchNorm statistics, where there are any, are "
            "renewed at every alpha, also where the soup is a trial that has its own in the table of methods."
        ),
        *map(chart, plots.values()),
        variants_table(results, variants, Column("alpha"), caption, "wise_ft.parquet", "soup"),
    ]
    return "".join(content)


SECTION = Section(
    "Between the starting point and the soups",
    _body,
    _plots,
    anchor="interpolation",
)
