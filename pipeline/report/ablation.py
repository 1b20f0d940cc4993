"""Soups with one setting changed (Fig. 3 and App. D of the MEHL-Soup paper)."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import groupby

from pipeline.records import RunResults, VariantRecord
from pipeline.report.formats import count
from pipeline.report.intervals import exact_size
from pipeline.report.markup import chart, paragraph
from pipeline.report.measured import accuracy_series, test_title, variants_table
from pipeline.report.plot import LinePlot, Plot
from pipeline.report.section import Section
from pipeline.report.styles import style


def _ablated(rows: Sequence[VariantRecord]) -> Iterator[tuple[str, str, list[VariantRecord]]]:
    """The ablations by method and setting, numbers in order."""
    for (method, name), part in groupby(rows, key=lambda row: (row.method, row.setting)):
        yield method, name, sorted(part, key=lambda row: _number_or_end(row.value))


def _figure_name(method: str, setting_name: str) -> str:
    """The name of the figure of an ablation, in letters, digits and underscores."""
    return re.sub(r"\W+", "_", f"ablation_{method}_{setting_name}")


def _plots(results: RunResults) -> list[Plot]:
    variants = results.table("ablation", VariantRecord)
    return [_plot(results, method, name, rows) for method, name, rows in _ablated(variants)]


def _plot(results: RunResults, method: str, name: str, rows: Sequence[VariantRecord]) -> LinePlot:
    look, images = style(method, results.run.labels), exact_size(results.run)
    series = accuracy_series(look, range(len(rows)), [row.test_score for row in rows], images)
    if name == "seed" or any(_number_or_end(row.value) == math.inf for row in rows):
        series = replace(series, line=None)  # nothing lies between words
    return LinePlot(
        _figure_name(method, name),
        f"Test {results.run.metric_label} of {look.label} with other values of {name}",
        f"{name} of {look.label}",
        test_title(results.run),
        [series],
        source="ablation.parquet",
        ticks=[f"{row.value} (run)" if row.is_default else row.value for row in rows],
    )


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    if not plots:
        return ""
    parts = [paragraph("The same soups with one setting changed; the run's own value is marked.")]
    for method, name, rows in _ablated(results.table("ablation", VariantRecord)):
        parts.append(f"<h3>{escape(name)} of {escape(style(method, results.run.labels).label)}</h3>")
        if name == "seed" and len(rows) > 1:
            accuracies = [100 * row.test_score for row in rows]
            parts.append(
                paragraph(
                    f"Mean of {count(len(rows), 'seed')}: {statistics.mean(accuracies):.2f} %, standard deviation "
                    f"{statistics.stdev(accuracies):.2f} pp."
                )
            )
        caption = f"Soups with other values of {name}"
        parts += [
            chart(plots[_figure_name(method, name)]),
            variants_table(results, rows, name, caption, "ablation.parquet"),
        ]
    return "".join(parts)


def _number_or_end(value: str) -> float:
    """For sorting: words keep their order behind the numbers."""
    try:
        return float(value)
    except ValueError:
        return math.inf


SECTION = Section("Ablation", _body, _plots)
