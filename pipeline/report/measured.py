"""Soups that were measured with one thing varied: as points of a figure, and as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.records import RunRecord, RunResults, VariantRecord
from pipeline.report.formats import MISSING, between, duration, memory_with_kind, percent, tells_memory
from pipeline.report.intervals import exact_size, interval
from pipeline.report.markup import Column, table
from pipeline.report.plot import Series
from pipeline.report.styles import MethodStyle, style

ACCURACIES = ("Validation %", "Select %", "Test %", "95 % interval")


def test_title(run: RunRecord) -> str:
    """What an axis says that shows what decides, on the test split."""
    return f"Test {run.metric_label} (%)"


def accuracy_series(
    look: MethodStyle,
    x: Sequence[float],
    accuracies: Sequence[float],
    images: int | None,
    *,
    band: bool = False,
) -> Series:
    """Test accuracies (or scores) with their intervals, where `exact_size` gives the number of images."""
    intervals = [interval(accuracy, images) for accuracy in accuracies] if images else []
    return Series(
        *look,
        x=list(x),
        y=[100 * accuracy for accuracy in accuracies],
        low=[100 * low for low, _ in intervals],
        high=[100 * high for _, high in intervals],
        band=band,
    )  # fmt: skip


class HasBlocks(Protocol):
    """A row of a soup; ``block_size`` is None where its method has no blocks."""

    @property
    def block_size(self) -> int | None:
        """The b that was used."""


def b_heading(rows: Sequence[HasBlocks]) -> list[str]:
    """The heading of the column that says the b that was used, where a row has one."""
    return ["b"] if any(row.block_size is not None for row in rows) else []


def b_cell(row: HasBlocks, rows: Sequence[HasBlocks]) -> list[str]:
    """The cell of that column in a ``row`` of ``rows``."""
    return [MISSING if row.block_size is None else str(row.block_size)] if b_heading(rows) else []


def by_method(rows: Sequence[VariantRecord]) -> dict[str, list[VariantRecord]]:
    """The rows of each method, by the number that varies."""
    methods = dict.fromkeys(row.method for row in rows)
    return {
        method: sorted((row for row in rows if row.method == method), key=lambda row: float(row.value))
        for method in methods
    }


def variants_table(
    results: RunResults, rows: Sequence[VariantRecord], heading: Column, caption: str, source: str, default: str = "run"
) -> str:
    """A table of soups of which one thing varies, under ``heading``; ``default`` names the run's own value."""
    images = exact_size(results.run)
    shifts = [f"{name} %" for name in rows[0].shift_scores]
    memory = ["Peak memory"] if tells_memory(rows) else []
    headings = (*ACCURACIES, *shifts, "Selected", *b_heading(rows), "Construction", *memory)
    columns = [Column("Method", False), heading, *map(Column, headings)]
    cells = [
        (
            style(row.method, results.run.labels).label,
            f"{row.value} ({default})" if row.is_default else row.value,
            percent(row.val_score),
            percent(row.select_score),
            percent(row.test_score),
            between(row.test_score, images),
            *map(percent, row.shift_scores.values()),
            f"{row.num_selected} of {row.num_ingredients}",
            *b_cell(row, rows),
            duration(row.construction_seconds),
            *(memory_with_kind(row) for _ in memory),
        )
        for row in rows
    ]
    return table(caption, columns, cells, source=source)
