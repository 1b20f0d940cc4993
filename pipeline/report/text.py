"""The table of methods for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import IngredientRecord, SoupRecord, cost_unit
from pipeline.report.formats import cost, count, duration, memory_with_kind, percent

_HEADINGS = ("method", "validation %", "select %", "test %", "models", "build time", "peak memory")


def methods_table(soups: Sequence[SoupRecord], ingredients: Sequence[IngredientRecord], champion: str | None) -> str:
    """The methods as a plain-text table of at most 100 columns, the champion marked with a star.

    Accuracies are in per cent; ``models`` counts the ingredients selected out of all.
    """
    rows = [
        (
            f"{'*' if soup.method == champion else ' '} {soup.method}",
            percent(soup.val_accuracy),
            percent(soup.select_accuracy),
            percent(soup.test_accuracy),
            f"{soup.num_selected}/{soup.num_ingredients}",
            duration(soup.construction_seconds),
            memory_with_kind(soup),
        )
        for soup in soups
    ]
    table = [(f"  {_HEADINGS[0]}", *_HEADINGS[1:]), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADINGS))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
    lines.insert(1, "-" * len(lines[0]))
    if champion is not None:
        chooser = "validation" if any(soup.select_accuracy is None for soup in soups) else "select"
        lines += ["", f"* champion: best {chooser} accuracy of a single model"]
    finished = sum(row.status == "finished" for row in ingredients)
    price = cost(sum(row.gpu_hours for row in ingredients), cost_unit(ingredients))
    lines.append(f"  sweep: {finished} of {count(len(ingredients), 'trial')} finished, {price}")
    return "\n".join(lines)
