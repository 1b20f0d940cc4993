"""Cost curves: test accuracy against what the trials so far cost, for every method that was followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Literal, NamedTuple

import numpy as np

from pipeline.records import CostRecord
from pipeline.report.formats import cost, count, percent
from pipeline.report.plot import Series
from pipeline.report.styles import style


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
        column = sorted(by_number[row.num_ingredients], key=lambda other: other.test_score)
        if row is column[-1]:
            return CostPoint(row, "above")
        return CostPoint(row, "below" if row is column[0] else None)

    ranked = sorted(by_method.items(), key=lambda item: -item[1][-1].test_score)
    return [CostLine(method, [point(row) for row in rows]) for method, rows in ranked]


def cost_series(costs: Sequence[CostRecord], unit: str, labels: Mapping[str, str]) -> list[Series]:
    """Test accuracy against cost in search order, the number of ingredients beside each point, best line first."""
    all_series = []
    for line in cost_lines(costs):
        look = style(line.method, labels)
        rows = [point.record for point in line.points]
        all_series.append(
            Series(
                *look,
                x=[row.gpu_hours for row in rows],
                y=[100 * row.test_score for row in rows],
                numbers=[str(row.num_ingredients) for row in rows],
                sides=[point.label_side for point in line.points],
                hover=[
                    f"<b>{escape(look.label)}</b><br>{count(row.num_ingredients, 'ingredient')}"
                    f"<br>{cost(row.gpu_hours, unit)}<br>test {percent(row.test_score)} %"
                    f"<br>select {percent(row.select_score)} %<br>validation {percent(row.val_score)} %"
                    for row in rows
                ],
            )
        )
    return all_series


class OrderBand(NamedTuple):
    """Test accuracies of so many orders at one number of ingredients: mean, 2.5 and 97.5 % quantile."""

    orders: int
    num_ingredients: int
    gpu_hours: float
    mean: float
    low: float
    high: float


def order_bands(costs: Sequence[CostRecord], method: str) -> list[OrderBand]:
    """By number of ingredients; ``gpu_hours`` is their mean too. Empty where there are no random orders.

    Search order is one of the orders, as it is in a `CostRatioRecord`.
    """
    own = [row for row in costs if row.method == method]
    if all(row.order_seed is None for row in own):
        return []
    by_number: dict[int, list[CostRecord]] = {}
    for row in own:
        by_number.setdefault(row.num_ingredients, []).append(row)
    bands = []
    for number, rows in sorted(by_number.items()):
        accuracies = np.array([row.test_score for row in rows])
        low, high = np.quantile(accuracies, [0.025, 0.975])
        hours = float(np.mean([row.gpu_hours for row in rows]))
        bands.append(OrderBand(len(rows), number, hours, float(accuracies.mean()), float(low), float(high)))
    return bands
