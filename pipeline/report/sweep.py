"""All trials with their hyperparameters and cost."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.records import RunResults, costs, title_of
from pipeline.records.hyperparameters import compared, named, shown
from pipeline.report.formats import MISSING, cost_scale, memory, percent
from pipeline.report.links import trial_link
from pipeline.report.markup import Column, paragraph, table
from pipeline.report.plot import Plot
from pipeline.report.section import Section


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    ingredients = results.ingredients
    if not ingredients:
        return paragraph("No trial has run yet.")
    trials = [row.hyperparameters for row in ingredients]
    differing, shared = compared(trials)
    hours = [costs([row]) for row in ingredients]  # a column for each unit
    scales = {unit: cost_scale(max(trial.get(unit, 0.0) for trial in hours), unit) for unit in costs(ingredients)}
    peak = ["Peak memory"] if any(row.peak_memory_bytes for row in ingredients) else []  # None without a GPU
    columns = [
        Column("Trial"),
        Column("Status", numeric=False),
        *map(Column, ("Validation %", "Select %", "Test %")),
        *(Column(title_of(name), not any(isinstance(trial.get(name), str) for trial in trials)) for name in differing),
        *map(Column, ("Attempts", "Images seen", *peak)),
        *(Column(f"Cost ({scale.unit})") for scale in scales.values()),
    ]
    rows = [
        (
            trial_link(results.run, row.trial_index),
            row.status,
            percent(row.val_score),
            percent(row.select_score),
            percent(row.test_score),
            *(shown(row.hyperparameters).get(name, MISSING) for name in differing),
            str(row.attempts),
            f"{row.images_seen:,}",
            *(memory(row.peak_memory_bytes) for _ in peak),
            *(scale.text(costs([row]).get(unit, 0.0)) for unit, scale in scales.items()),
        )
        for row in sorted(ingredients, key=lambda row: row.trial_index)
    ]
    same = paragraph(f"The same in all trials: {named(trials[0], shared)}.") if shared else ""
    return same + table("All trials, in search order", columns, rows, source="ingredients.parquet")


SECTION = Section("Sweep", _body)
