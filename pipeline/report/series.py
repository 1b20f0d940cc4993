"""What the figures draw, taken from the records once for the page and for the files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from pipeline.records import (
    CoefficientRecord,
    ComparisonRecord,
    CostRecord,
    IngredientRecord,
    RunRecord,
    RunResults,
    SoupRecord,
)


class CostPoint(NamedTuple):
    """A point of a cost curve; its number of ingredients is written ``above`` or ``below`` it, or not at all."""

    record: CostRecord
    label_side: Literal["above", "below"] | None


class CostLine(NamedTuple):
    """The points of a method by number of ingredients."""

    method: str
    points: list[CostPoint]


def cost_lines(costs: Sequence[CostRecord]) -> list[CostLine]:
    """The cost curves in search order, best last point first.

    Points with as many ingredients stand above each other, so only the highest and the lowest of them carry the number.
    """
    by_method: dict[str, list[CostRecord]] = {}
    by_number: dict[int, list[CostRecord]] = {}
    for row in sorted(costs, key=lambda row: row.num_ingredients):
        if row.order_seed is None:
            by_method.setdefault(row.method, []).append(row)
            by_number.setdefault(row.num_ingredients, []).append(row)

    def point(row: CostRecord) -> CostPoint:
        column = sorted(by_number[row.num_ingredients], key=lambda other: other.test_accuracy)
        if row is column[-1]:
            return CostPoint(row, "above")
        return CostPoint(row, "below" if row is column[0] else None)

    ranked = sorted(by_method.items(), key=lambda item: -item[1][-1].test_accuracy)
    return [CostLine(method, [point(row) for row in rows]) for method, rows in ranked]


class OrderBand(NamedTuple):
    """Test accuracies of so many random orders at one number of ingredients: mean, 2.5 and 97.5 % quantile."""

    orders: int
    num_ingredients: int
    gpu_hours: float
    mean: float
    low: float
    high: float


def order_bands(costs: Sequence[CostRecord], method: str) -> list[OrderBand]:
    """By number of ingredients; ``gpu_hours`` is their mean too. Empty where there are no random orders."""
    by_number: dict[int, list[CostRecord]] = {}
    for row in costs:
        if row.method == method and row.order_seed is not None:
            by_number.setdefault(row.num_ingredients, []).append(row)
    found = []
    for number, rows in sorted(by_number.items()):
        accuracies = np.array([row.test_accuracy for row in rows])
        low, high = np.quantile(accuracies, [0.025, 0.975])
        hours = float(np.mean([row.gpu_hours for row in rows]))
        found.append(OrderBand(len(rows), number, hours, float(accuracies.mean()), float(low), float(high)))
    return found


class Trials(NamedTuple):
    """The trials in search order: those that gave an ingredient and those that did not.

    ``floor`` is the accuracy at which the latter are marked, below all others.
    """

    finished: list[IngredientRecord]
    without: list[IngredientRecord]
    floor: float


def trials(ingredients: Sequence[IngredientRecord]) -> Trials:
    """Sort the trials into those with an ingredient and those without."""
    rows = sorted(ingredients, key=lambda row: row.trial_index)
    finished = [row for row in rows if row.status == "finished"]
    values = [v for row in finished for v in (row.val_accuracy, row.test_accuracy) if v is not None] or [0.0]
    span = max(values) - min(values)
    floor = max(0.0, min(values) - max(0.1 * span, 0.005))
    return Trials(finished, [row for row in rows if row.status != "finished"], floor)


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


def learned_coefficients(results: RunResults) -> dict[str, list[CoefficientRecord]]:
    """By method the coefficients of the soups that do not simply average some ingredients."""
    return {
        method: rows
        for method, rows in results.coefficients.items()
        if len({row.coefficient for row in rows if row.coefficient != 0}) > 1
    }


def champion_of(run: RunRecord, soups: Sequence[SoupRecord]) -> SoupRecord | None:
    """The record of the run's champion, None while there is none."""
    return next((soup for soup in soups if soup.method == run.champion), None)
