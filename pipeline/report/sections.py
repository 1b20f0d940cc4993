"""The sections of the page after the overview."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from pipeline.records import ComparisonRecord, CostRecord, IngredientRecord, RunRecord, SoupRecord, cost_unit
from pipeline.report.formats import (
    MISSING,
    augmentation,
    cost,
    cost_scale,
    duration,
    memory,
    percent,
    setting,
    significant,
)
from pipeline.report.intervals import difference_margin, margin, split_size
from pipeline.report.markup import Column, chart, facts, paragraph, section, table
from pipeline.report.series import CostLine, against, cost_lines, trials
from pipeline.report.styles import style
from pipeline.report.text import memory_with_kind

COST_CHART = "cost-chart"
INGREDIENTS_CHART = "ingredients-chart"

_SPLIT_USES = {
    "pretrain": "makes the starting point that all trials share",
    "train": "fine-tunes every trial",
    "fit": "scores the trials and teaches the soups (validation accuracy)",
    "select": "chooses the champion",
    "test": "reported, never used for a choice",
}

_SWEEP_COLUMNS = (
    Column("Trial"),
    Column("Status", numeric=False),
    *map(Column, ("Validation %", "Select %", "Test %", "Learning rate", "Weight decay", "Epochs", "Batch size")),
    *map(Column, ("Label smoothing", "Mixup")),
    Column("Augmentation", numeric=False),
    *map(Column, ("Seed", "Attempts", "Images seen", "Peak memory")),
)


def methods_section(run: RunRecord, soups: Sequence[SoupRecord]) -> str:
    """The table of methods."""
    if not soups:
        return section(
            "methods", "Methods", paragraph("No soup has been built yet: run the soup stage (--stages soup).")
        )
    images = split_size(run, "test")
    columns = ("Method", "Validation %", "Select %", "Test %", "95 % margin", "Selected", "Construction", "Peak memory")
    rows = [
        (
            style(soup.method).label,
            percent(soup.val_accuracy),
            percent(soup.select_accuracy),
            percent(soup.test_accuracy),
            f"\u00b1 {100 * margin(soup.test_accuracy, images):.1f}" if images else MISSING,
            f"{soup.num_selected} of {soup.num_ingredients}",
            duration(soup.construction_seconds),
            memory_with_kind(soup),
        )
        for soup in soups
    ]
    champion = next((index for index, soup in enumerate(soups) if soup.method == run.champion), None)
    chooser = "validation" if any(soup.select_accuracy is None for soup in soups) else "select"
    notes = f"The methods learned from validation, {chooser} chose the champion (marked), test is only reported."
    if any(soup.method.endswith("ensemble") for soup in soups):
        notes += " An ensemble runs all its selected models for every prediction; every other row is a single model."
    return section(
        "methods",
        "Methods",
        table("Accuracy and cost of each method", [Column(c, c != "Method") for c in columns], rows, champion),
        paragraph(notes, "note"),
    )


def comparisons_section(run: RunRecord, soups: Sequence[SoupRecord], comparisons: Sequence[ComparisonRecord]) -> str:
    """The champion against every other method on the same test images."""
    title = "Comparisons"
    pairs = [(soup.method, found) for soup in soups if (found := against(comparisons, run.champion, soup.method))]
    if not pairs:
        how = "The methods have not been compared: run the study stage (--stages study,report) with more than one."
        return section("comparisons", title, paragraph(how))
    headings = ("Gain, pp", "95 % interval", "Wins", "Losses", "p", "p, corrected")
    columns = [Column("Against", False), *map(Column, headings)]
    rows = [
        (
            style(method).label,
            f"{100 * pair.difference:+.2f}",
            f"{100 * pair.low:+.2f} to {100 * pair.high:+.2f}",
            str(pair.wins),
            str(pair.losses),
            significant(pair.p_value),
            significant(pair.p_adjusted),
        )
        for method, pair in pairs
    ]
    champion = style(run.champion).label if run.champion else ""
    return section(
        "comparisons",
        title,
        paragraph(
            f"What {champion} gains in test accuracy over every other method, on the same images: wins are those that "
            "it alone gets right. The interval resamples the images. p is of the exact McNemar test, corrected for all "
            f"{len(comparisons)} pairs of methods (Benjamini and Yekutieli); comparisons.parquet holds them all."
        ),
        table("The champion against each method", columns, rows),
    )


def cost_section(run: RunRecord, costs: Sequence[CostRecord], ingredients: Sequence[IngredientRecord]) -> str:
    """The cost curve, what its last step brought, and its points as a table."""
    title = "Cost against accuracy"
    if not costs:
        how = "The cost curve has not been computed yet. Run the study stage of the same config: "
        command = "<code>python -m pipeline run --config CONFIG --stages study,report</code>"
        return section("cost", title, f"<p>{escape(how)}{command}</p>")
    unit = cost_unit(ingredients)
    lines = cost_lines(costs)
    columns = [Column("Method", False), *map(Column, ("Ingredients", unit, "Validation %", "Select %", "Test %"))]
    rows = [
        (
            style(line.method).label,
            str(row.num_ingredients),
            significant(row.gpu_hours),
            percent(row.val_accuracy),
            percent(row.select_accuracy),
            percent(row.test_accuracy),
        )
        for line in lines
        for row, _ in line.points
    ]
    return section(
        "cost",
        title,
        paragraph(
            "Each point is a model made from the first trials of the sweep, in search order; the number beside it says "
            f"how many. Further right is dearer (all trials so far, failed ones too, in {unit}), higher is better."
        ),
        f"<figure>{chart(COST_CHART, f'Test accuracy of each method against cost in {unit}')}</figure>",
        *(paragraph(_last_step(run, line, unit)) for line in lines[:1]),
        f"<details><summary>The points as a table</summary>{table('The cost curve', columns, rows)}</details>",
    )


def _last_step(run: RunRecord, line: CostLine, unit: str) -> str:
    """What the last step of a cost curve brought, in words; nothing where there is only one point."""
    if len(line.points) < 2:
        return ""
    (before, _), (after, _) = line.points[-2:]
    points = 100 * (after.test_accuracy - before.test_accuracy)
    spent = cost(after.gpu_hours - before.gpu_hours, unit)
    text = (
        f"The last step of {style(line.method).label}, from {before.num_ingredients} to {after.num_ingredients} "
        f"ingredients, cost {spent} and changed its test accuracy by {points:+.2f} percentage points"
    )
    images = split_size(run, "test")
    if images is None:
        return f"{text}."
    noise = 100 * difference_margin(after.test_accuracy, before.test_accuracy, images)
    return f"{text}; chance alone would explain up to {noise:.1f}."


def ingredients_section(ingredients: Sequence[IngredientRecord]) -> str:
    """The accuracies of the trials, and why some gave no ingredient."""
    title = "Ingredients"
    if not ingredients:
        return section("ingredients", title, paragraph("No trial has run yet: run the search stage (--stages search)."))
    rows = trials(ingredients)
    content = [
        paragraph("Every trial of the sweep. Touch a point, or hover over it, for its hyperparameters."),
        f"<figure>{chart(INGREDIENTS_CHART, 'Validation and test accuracy of every trial in search order')}</figure>",
    ]
    if rows.without:
        items = "".join(
            f"<li>Trial {row.trial_index} ({row.status}): {escape(row.reason or 'no reason recorded')}</li>"
            for row in rows.without
        )
        content.append(f"<h3>Trials without an ingredient</h3><ul>{items}</ul>")
    return section("ingredients", title, *content)


def sweep_section(ingredients: Sequence[IngredientRecord]) -> str:
    """All trials with their hyperparameters and cost."""
    if not ingredients:
        return section("sweep", "Sweep", paragraph("No trial has run yet."))
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
    caption = "All trials, in search order"
    return section("sweep", "Sweep", table(caption, [*_SWEEP_COLUMNS, Column(f"Cost ({scale.unit})")], rows))


def splits_section(run: RunRecord) -> str:
    """The splits and what each was used for."""
    columns = [Column("Split", False), Column("Images"), Column("Used for", False), Column("SHA-256 of indices", False)]
    rows = [(split.name, f"{split.size:,}", _SPLIT_USES[split.name], split.indices_sha256[:12]) for split in run.splits]
    return section("splits", "Splits", table("What each image was used for", columns, rows))


def versions_section(run: RunRecord) -> str:
    """What is needed to repeat the run."""
    pairs = [
        ("Sweep", run.sweep_id),
        ("Starting point (SHA-256)", (run.theta0_sha256 or MISSING)[:12]),
        ("Classes", str(len(run.class_names))),
        *sorted(run.versions.items()),
    ]
    return section("versions", "Versions", facts(pairs, "facts"))
