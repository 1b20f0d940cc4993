"""The sections on the methods and the sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pipeline.records import ComparisonRecord, IngredientRecord, RunRecord, SoupRecord, cost_unit
from pipeline.report.formats import (
    MISSING,
    augmentation,
    between,
    cost_scale,
    duration,
    memory,
    percent,
    setting,
    significant,
)
from pipeline.report.intervals import split_size
from pipeline.report.markup import Column, chart, facts, paragraph, section, table
from pipeline.report.plot import Plot
from pipeline.report.plots import INGREDIENTS
from pipeline.report.series import against, trials
from pipeline.report.styles import style
from pipeline.report.text import memory_with_kind

_SPLIT_USES = {
    "pretrain": "makes the starting point that all trials share",
    "train": "fine-tunes every trial",
    "fit": "scores the trials and teaches the soups (validation accuracy)",
    "select": "chooses the champion",
    "test": "reported, never used for a choice",
}

_SHIFT_USE = "another test set: reported, never used for a choice"

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
    accuracies = ("Validation %", "Select %", "Test %", "95 % interval")
    shifts = [f"{name} %" for name in soups[0].shift_accuracies]
    columns = ("Method", *accuracies, *shifts, "Selected", "Time per epoch", "Epochs", "Construction", "Peak memory")
    rows = [
        (
            style(soup.method).label,
            percent(soup.val_accuracy),
            percent(soup.select_accuracy),
            percent(soup.test_accuracy),
            between(soup.test_accuracy, images),
            *map(percent, soup.shift_accuracies.values()),
            f"{soup.num_selected} of {soup.num_ingredients}",
            duration(soup.construction_seconds / soup.epochs) if soup.epochs else MISSING,
            significant(soup.epochs),
            duration(soup.construction_seconds),
            memory_with_kind(soup),
        )
        for soup in soups
    ]
    champion = next((index for index, soup in enumerate(soups) if soup.method == run.champion), None)
    chooser = "validation" if any(soup.select_accuracy is None for soup in soups) else "select"
    notes = "Epochs are passes over the images that a method learned from. "
    notes += f"The methods learned from validation, {chooser} chose the champion (marked), test is only reported."
    if any(soup.method.endswith("ensemble") for soup in soups):
        notes += " An ensemble runs all its selected models for every prediction; every other row is a single model."
    return section(
        "methods",
        "Methods",
        table(
            "Accuracy and cost of each method",
            [Column(c, c != "Method") for c in columns],
            rows,
            champion,
            "soups.parquet",
        ),
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
        table("The champion against each method", columns, rows, source="comparisons.parquet"),
    )


def ingredients_section(ingredients: Sequence[IngredientRecord], plots: Mapping[str, Plot]) -> str:
    """The accuracies of the trials, and why some gave no ingredient."""
    title = "Ingredients"
    if not ingredients:
        return section("ingredients", title, paragraph("No trial has run yet: run the search stage (--stages search)."))
    rows = trials(ingredients)
    content = [
        paragraph("Every trial of the sweep. Touch a point, or hover over it, for its hyperparameters."),
        chart(plots[INGREDIENTS]),
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
    caption, columns = "All trials, in search order", [*_SWEEP_COLUMNS, Column(f"Cost ({scale.unit})")]
    return section("sweep", "Sweep", table(caption, columns, rows, source="ingredients.parquet"))


def splits_section(run: RunRecord) -> str:
    """The splits and what each was used for."""
    columns = [Column("Split", False), Column("Images"), Column("Used for", False), Column("SHA-256 of indices", False)]
    rows = [
        (split.name, f"{split.size:,}", _SPLIT_USES.get(split.name, _SHIFT_USE), split.indices_sha256[:12])
        for split in run.splits
    ]
    return section("splits", "Splits", table("What each image was used for", columns, rows, source="run.json"))


def versions_section(run: RunRecord) -> str:
    """What is needed to repeat the run."""
    pairs = [
        ("Sweep", run.sweep_id),
        ("Starting point (SHA-256)", (run.theta0_sha256 or MISSING)[:12]),
        ("Classes", str(len(run.class_names))),
        *sorted(run.versions.items()),
    ]
    return section("versions", "Versions", facts(pairs, "facts"))
