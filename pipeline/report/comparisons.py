"""Which methods differ beyond chance: the champion against every other one on the same test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.digits import apart
from pipeline.metrics import ACCURACY
from pipeline.records import ComparisonRecord, RunResults
from pipeline.report.formats import gains
from pipeline.report.markup import Column, paragraph, table
from pipeline.report.plot import Plot
from pipeline.report.section import Section
from pipeline.report.styles import style

SIGNIFICANT = 0.05  # p below this is beyond noise
_SMALLEST = 0.001  # how far p is below this says nothing more


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    run, comparisons = results.run, results.table("comparisons", ComparisonRecord)
    pairs = [(soup.method, pair) for soup in results.soups if (pair := against(comparisons, run.champion, soup.method))]
    if not pairs:
        how = "The methods have not been compared: run the study stage (--stages study,report) with more than one."
        return paragraph(how)
    headings = ("Gain, pp", "95 % interval", "Wins", "Losses", "p", "p, corrected")
    columns = [Column("Against", False), *map(Column, headings)]
    rows = [
        (
            style(method, run.labels).label,
            *gain_and_interval(pair),
            str(pair.wins),
            str(pair.losses),
            *p_values(pair.p_value, pair.p_adjusted),
        )
        for method, pair in pairs
    ]
    champion = style(run.champion, run.labels).label if run.champion else ""
    test = "the exact McNemar test" if run.metric == ACCURACY else "the same resamples (paired bootstrap)"
    introduction = paragraph(
        f"What {champion} gains in test {run.metric_label} over every other method, on the same {run.examples}: wins "
        f"are those that it alone gets right. The interval resamples the {run.examples}. p is of {test}, corrected for "
        f"all {len(comparisons)} pairs of methods (Benjamini and Yekutieli); comparisons.parquet holds them all."
    )
    return introduction + table("The champion against each method", columns, rows, source="comparisons.parquet")


def p_values(*values: float) -> list[str]:
    """With digits enough to tell them from `SIGNIFICANT` and from each other: ``0.115``, ``0.0312``, ``< 0.001``."""
    texts = apart([*values, SIGNIFICANT])[:-1]
    return [f"< {_SMALLEST}" if value < _SMALLEST else text for value, text in zip(values, texts, strict=True)]


def gain_and_interval(pair: ComparisonRecord) -> tuple[str, str]:
    """The difference in percentage points, and the ends of its interval: ``+1.61``, ``-0.20 to +3.42``."""
    gain, low, high = gains(pair.difference, pair.low, pair.high)
    return gain, f"{low} to {high}"


def against(comparisons: Sequence[ComparisonRecord], method: str | None, baseline: str) -> ComparisonRecord | None:
    """The comparison of two methods, seen from ``method``; None where they were not compared."""
    for row in comparisons:
        if (row.method, row.baseline) == (method, baseline):
            return row
        if (row.baseline, row.method) == (method, baseline):
            return row.model_copy(
                update={
                    **{"method": row.baseline, "baseline": row.method, "difference": -row.difference},
                    **{"low": -row.high, "high": -row.low, "wins": row.losses, "losses": row.wins},
                }
            )
    return None


SECTION = Section("Comparisons", _body)
