"""How much a method owes to a few good trials (Tab. 3 of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.records import RunResults, VariantRecord
from pipeline.report.intervals import exact_size
from pipeline.report.markup import Column, chart, paragraph
from pipeline.report.measured import accuracy_series, by_method, test_title, variants_table
from pipeline.report.plot import LinePlot, Plot
from pipeline.report.section import Section
from pipeline.report.styles import style

_NAME = "elimination"


def _plots(results: RunResults) -> list[Plot]:
    variants, images = results.table(_NAME, VariantRecord), exact_size(results.run)
    if not variants:
        return []
    series = []
    for method, rows in by_method(variants).items():
        look, x = style(method, results.run.labels), [int(row.value) for row in rows]
        series.append(accuracy_series(look, x, [row.test_score for row in rows], images))
    what = f"Test {results.run.metric_label} of each method without the best ingredients"
    x_title = "Best ingredients eliminated"
    return [LinePlot(_NAME, what, x_title, test_title(results.run), series, whole_x=True, source="elimination.parquet")]


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    variants = results.table(_NAME, VariantRecord)
    if not variants:
        return ""
    content = [
        paragraph(
            f"Soups of the sweep without its best ingredients by validation {results.run.metric_label}: how much a "
            "method owes to a few good trials."
        ),
        chart(plots[_NAME]),
        variants_table(
            results, variants, Column("Eliminated"), "Soups without the best ingredients", "elimination.parquet"
        ),
    ]
    return "".join(content)


SECTION = Section("Without the best ingredients", _body, _plots)
