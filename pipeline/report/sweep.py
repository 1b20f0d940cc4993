"""All trials with their hyperparameters and cost."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.records import RunResults, cost_unit
from pipeline.report.formats import augmentation, cost_scale, memory, percent, setting
from pipeline.report.markup import Column, paragraph, table
from pipeline.report.plot import Plot
from pipeline.report.section import Section

_SWEEP_COLUMNS = (
    Column("Trial"),
    Column("Status", numeric=False),
    *map(Column, ("Validation %", "Select %", "Test %", "Learning rate", "Weight decay", "Epochs", "Batch size")),
    *map(Column, ("Label smoothing", "Mixup")),
    Column("Augmentation", numeric=False),
    *map(Column, ("Seed", "Attempts", "Images seen", "Peak memory")),
)


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    ingredients = results.ingredients
    if not ingredients:
        return paragraph("No trial has run yet.")
    scale = cost_scale(max(row.gpu_hours for row in ingredients), cost_unit(ingredients))
    rows = [
        (
            str(row.trial_index),
            row.status,
            percent(row.val_accuracy),
            percent(row.select_accuracy),
            percent(row.test_accuracy),
            *map(setting, (row.lr, row.weight_decay, row.epochs, row.batch_size, row.label_smoothing, row.mixup)),
            augmentation(row),
            setting(row.seed),
            str(row.attempts),
            f"{row.images_seen:,}",
            memory(row.peak_memory_bytes),
            scale.text(row.gpu_hours),
        )
        for row in sorted(ingredients, key=lambda row: row.trial_index)
    ]
    caption, columns = "All trials, in search order", [*_SWEEP_COLUMNS, Column(f"Cost ({scale.unit})")]
    return table(caption, columns, rows, source="ingredients.parquet")


SECTION = Section("Sweep", _body)
