"""The table of methods for the terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

from pipeline.records import IngredientRecord, RunRecord, SoupRecord, cost_unit, costs
from pipeline.report.formats import (
    MISSING,
    cost,
    count,
    duration,
    memory_with_kind,
    percent,
    spent,
    tells_memory,
    text_table,
)
from pipeline.report.methods import champion_of, in_one_block
from pipeline.report.starting_point import below_start, own_unit

_WIDTH = 80
_HEADINGS = ("method", "val %", "select %", "test %", "models", "time")


def methods_table(run: RunRecord, soups: Sequence[SoupRecord], ingredients: Sequence[IngredientRecord]) -> str:
    """The methods as a plain-text table that fits a terminal; the champion has a star, theta0 stands before.

    Scores are in per cent; ``models`` counts the ingredients selected out of all. Peak memory has a column where it
    says something.
    """
    start, champion = run.theta0_figures, champion_of(run, soups)
    scores = (percent(run.theta0_score(split)) for split in ("val", "select", "test"))
    memory = ["memory"] if tells_memory(soups) else []
    rows = [("  theta0", *scores, *[MISSING] * (2 + len(memory)))] if run.theta0_score("test") is not None else []
    rows += [
        (
            f"{'*' if soup is champion else ' '} {soup.method}",
            *map(percent, (soup.val_score, soup.select_score, soup.test_score)),
            f"{soup.num_selected}/{soup.num_ingredients}",
            duration(soup.construction_seconds),
            *(memory_with_kind(soup, held=False) for _ in memory),
        )
        for soup in soups
    ]
    lines = text_table((f"  {_HEADINGS[0]}", *_HEADINGS[1:], *memory), rows).split("\n")
    if champion is not None:
        chooser = "validation" if any(soup.select_score is None for soup in soups) else "select"
        lines += ["", f"* champion: best {chooser} {run.metric_label} of a single model"]
        if below := below_start(run, champion):
            lines += ["  below the starting point, theta0:", f"  {below}"]
    if text := in_one_block(soups, {}):
        lines += _wrapped(text)
    number = Counter(row.status for row in ingredients)
    sweep = f"{number['finished']} of {count(len(ingredients), 'trial')} finished"
    others = [f", {number[status]} {status.replace('-', ' ')}" for status in ("stopped", "left-out") if number[status]]
    lines.append(f"  {sweep}{''.join(others)}, {spent(costs(ingredients))}")
    if run.stopped is not None:
        lines += _wrapped(f"ended before its last trial by {run.stopped}")
    if "gpu_hours" in start:
        lines.append(f"  theta0: {cost(start['gpu_hours'], own_unit(run, cost_unit(ingredients)))} beside that")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")
