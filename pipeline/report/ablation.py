"""Soups with one setting changed (Fig. 3 and App. D of the MEHL-Soup paper)."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import groupby

from pipeline.records import RunResults, VariantRecord
from pipeline.report.formats import count, percent
from pipeline.report.intervals import exact_size
from pipeline.report.markup import Column, chart, folded, paragraph
from pipeline.report.measured import accuracy_series, test_title, variants_table
from pipeline.report.plot import LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.styles import style

_NAME = "ablation"


def _variants(results: RunResults) -> list[VariantRecord]:
    """All soups with a setting changed: by method and setting, numbers in order."""
    rows = results.table(_NAME, VariantRecord)
    groups = groupby(rows, key=lambda row: (row.method, row.setting))
    return [row for _, part in groups for row in sorted(part, key=lambda row: _number_or_end(row.value))]


def _plots(results: RunResults) -> list[Plot]:
    return [_plot(results, rows)] if (rows := _variants(results)) else []


def _plot(results: RunResults, rows: Sequence[VariantRecord]) -> LinePlot:
    """A row of the figure for every soup: filled where the setting is the run's own, open where it is another."""
    series: list[Series] = []
    for method in dict.fromkeys(row.method for row in rows):
        look = style(method, results.run.labels)
        for is_default in (True, False):
            places = [at for at, row in enumerate(rows) if (row.method, row.is_default) == (method, is_default)]
            if places:
                own = (
                    look._replace(label=f"{look.label} (run)")
                    if is_default
                    else look._replace(symbol=f"{look.symbol}-open")
                )
                accuracies = [rows[at].test_score for at in places]
                hover = [
                    f"<b>{escape(look.label)}</b><br>{escape(_setting(rows[at]))}<br>test {percent(accuracy)} %"
                    for at, accuracy in zip(places, accuracies, strict=True)
                ]
                points = accuracy_series(own, places, accuracies, exact_size(results.run))
                series.append(replace(points, line=None, hover=hover))
    return LinePlot(
        _NAME,
        f"Test {results.run.metric_label} of the soups with one setting changed",
        "",
        test_title(results.run),
        series,
        source="ablation.parquet",
        ticks=[_setting(row) for row in rows],
    )


def _setting(row: VariantRecord) -> str:
    """``block_size 4``, and whether that is the run's own."""
    return f"{row.setting} {row.value}{' (run)' if row.is_default else ''}"


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    if not plots:
        return ""
    rows = _variants(results)
    bars = ", with its 95 % interval" if exact_size(results.run) else ""
    parts = [
        paragraph(f"The same soups with one setting changed{bars}; the run's own value is filled."),
        chart(plots[_NAME]),
    ]
    for (method, setting), group in groupby(rows, key=lambda row: (row.method, row.setting)):
        accuracies = [100 * row.test_score for row in group]
        if setting == "seed" and len(accuracies) > 1:
            parts.append(
                paragraph(
                    f"{style(method, results.run.labels).label} by {count(len(accuracies), 'seed')}: mean "
                    f"{statistics.mean(accuracies):.2f} %, standard deviation {statistics.stdev(accuracies):.2f} pp."
                )
            )
    named = [row.model_copy(update={"value": f"{row.setting} {row.value}"}) for row in rows]
    caption = "Soups with one setting changed"
    rows_of = variants_table(results, named, Column("Setting", numeric=False), caption, "ablation.parquet")
    parts.append(folded("The same as a table", rows_of))
    return "".join(parts)


def _number_or_end(value: str) -> float:
    """For sorting: words keep their order behind the numbers."""
    try:
        return float(value)
    except ValueError:
        return math.inf


SECTION = Section("Ablation", _body, _plots)
