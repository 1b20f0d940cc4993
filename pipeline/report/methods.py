"""The methods: how accurate each is, and what it took to build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.records import RunRecord, RunResults, SoupRecord
from pipeline.report.formats import MISSING, between, duration, memory_with_kind, percent, significant
from pipeline.report.intervals import split_size
from pipeline.report.markup import Column, paragraph, table
from pipeline.report.plot import Plot
from pipeline.report.section import Section
from pipeline.report.styles import style


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    run, soups = results.run, results.soups
    if not soups:
        return paragraph("No soup has been built yet: run the soup stage (--stages soup).")
    images = split_size(run, "test")
    accuracies = ("Validation %", "Select %", "Test %", "95 % interval")
    shifts = [f"{name} %" for name in soups[0].shift_accuracies]
    columns = ("Method", *accuracies, *shifts, "Selected", "Time per epoch", "Epochs", "Construction", "Peak memory")
    rows = [
        (
            style(soup.method, run.labels).label,
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
    if any(soup.method not in results.coefficients for soup in soups):
        notes += " An ensemble runs all its selected models for every prediction; every other row is a single model."
    headings = [Column(name, name != "Method") for name in columns]
    methods = table("Accuracy and cost of each method", headings, rows, champion, "soups.parquet")
    return methods + paragraph(notes, "note")


def champion_of(run: RunRecord, soups: Sequence[SoupRecord]) -> SoupRecord | None:
    """The record of the run's champion, None while there is none."""
    return next((soup for soup in soups if soup.method == run.champion), None)


SECTION = Section("Methods", _body)
