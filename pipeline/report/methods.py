"""The methods: how good each is, and what it took to build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pipeline.digits import significant
from pipeline.records import RunRecord, RunResults, SoupRecord
from pipeline.report.formats import (
    MISSING,
    about_memory,
    between,
    capital,
    duration,
    memory_with_kind,
    percent,
    tells_memory,
)
from pipeline.report.intervals import exact_size
from pipeline.report.links import how_to_open, method_link
from pipeline.report.markup import Cell, Column, paragraph, table
from pipeline.report.measured import b_cell, b_heading
from pipeline.report.plot import Plot
from pipeline.report.section import Section
from pipeline.report.starting_point import LABEL, is_start
from pipeline.report.styles import style

RENEWED = "best-individual-renewed"


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    run, soups = results.run, results.soups
    if not soups:
        return paragraph("No soup has been built yet: run the soup stage (--stages soup).")
    images = exact_size(run)
    accuracies = ("Validation %", "Select %", "Test %", "95 % interval")
    shifts = list(soups[0].shift_scores)
    memory = ["Peak memory"] if tells_memory(soups) else []
    built = ("Selected", *b_heading(soups), "Time per epoch", "Epochs", "Construction", *memory)
    columns = ("Method", *accuracies, *(f"{name} %" for name in shifts), *built)
    rows: list[Sequence[Cell]] = [_start(run, shifts, len(columns))] if run.theta0_score("test") is not None else []
    before = len(rows)
    rows += [
        (
            method_link(run, soup.method, _label(results, soup)),
            percent(soup.val_score),
            percent(soup.select_score),
            percent(soup.test_score),
            between(soup.test_score, images),
            *map(percent, soup.shift_scores.values()),
            f"{soup.num_selected} of {soup.num_ingredients}",
            *b_cell(soup, soups),
            duration(soup.construction_seconds / soup.epochs) if soup.epochs else MISSING,
            f"{significant(soup.epochs)}{f' (+{soup.epochs_of_trials})' if soup.epochs_of_trials else ''}",
            duration(soup.construction_seconds),
            *(memory_with_kind(soup) for _ in memory),
        )
        for soup in soups
    ]
    champion = champion_of(run, soups)
    marked = set() if champion is None else {before + soups.index(champion)}
    notes = f"Epochs are passes over the {run.examples} that a method learned from. "
    if any(soup.epochs_of_trials for soup in soups):
        notes += (
            "In brackets: one for each ingredient that the trials had made already, which the time leaves out and the "
            "papers count. "
        )
    if b_heading(soups):
        notes += "b is the number of models in memory at a time. "
    notes += about_memory(soups)
    if text := in_one_block(soups, run.labels):
        notes += f"{text}. "
    if any(soup.method == RENEWED for soup in soups):
        notes += (
            "Soups have their BatchNorm statistics renewed on training images; trials, and members of an ensemble, "
            f"have their own. {style(RENEWED, run.labels).label} is the best trial with them renewed: what a soup "
            "gains over that row is due to mixing. "
        )
    if any(soup.method not in results.coefficients for soup in soups):
        notes += "An ensemble runs all its selected models for every prediction; every other row is a single model. "
    headings = [Column(name, name != "Method") for name in columns]
    methods = table(
        f"{capital(run.metric_label)} and cost of each method", headings, rows, marked, "soups.parquet, run.json"
    )
    opened = how_to_open(run)
    where = (
        f'<p class="note">Methods and trials are runs in MLflow: <code>{escape(opened)}</code></p>' if opened else ""
    )
    return methods + paragraph(notes.strip(), "note") + where


def _start(run: RunRecord, shifts: Sequence[str], num_columns: int) -> tuple[str, ...]:
    """The row of the model that all trials started from, which was not built from ingredients."""
    test = run.theta0_score("test") or 0.0
    known = (
        LABEL,
        percent(run.theta0_score("val")),
        percent(run.theta0_score("select")),
        percent(test),
        between(test, exact_size(run)),
        *(percent(run.theta0_score(name)) for name in shifts),
    )
    return (*known, *(num_columns - len(known)) * (MISSING,))


def _label(results: RunResults, soup: SoupRecord) -> str:
    return style(soup.method, results.run.labels).label + (f" ({LABEL.lower()})" if _is_start(results, soup) else "")


def _is_start(results: RunResults, soup: SoupRecord) -> bool:
    return is_start(results.coefficients.get(soup.method, []))


def in_one_block(soups: Sequence[SoupRecord], labels: Mapping[str, str]) -> str:
    """Which methods that learn in blocks had all ingredients in one, and what they are then; empty where none had."""
    whole = [
        style(soup.method, labels).label
        for soup in soups
        if soup.block_size == soup.num_ingredients > 1 and soup.method not in ("hl", "hl-plus")
    ]
    if not whole:
        return ""
    return f"{' and '.join(whole)} had all ingredients in one block (b = K): MEHL-Soup is HL-Soup then"


def champion_of(run: RunRecord, soups: Sequence[SoupRecord]) -> SoupRecord | None:
    """The record of the run's champion, None while there is none."""
    return next((soup for soup in soups if soup.method == run.champion), None)


SECTION = Section("Methods", _body)
