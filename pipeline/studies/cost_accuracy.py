"""Accuracy against fine-tuning cost (Fig. 2 of the MEHL-Soup paper), in search order and in random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.records import CostRatioRecord, CostRecord, IngredientRecord, SoupRecord, cumulative_gpu_hours
from pipeline.soup_task import SoupRequest
from pipeline.studies.statistics import Curve, cost_ratio, paired_interval

# The soup of a method over trials whose sweep cost so many hours, with the settings of the run.
Request: TypeAlias = Callable[[str, tuple[int, ...], float], SoupRequest]


@dataclass(frozen=True)
class CostPoint:
    """A soup of the curve: of the first finished trials in search order, or in the order drawn with ``order_seed``."""

    name: str
    order_seed: int | None
    request: SoupRequest

    def record(self, soup: SoupRecord, predictions: str) -> CostRecord:
        """Its row; theta0, where it is an ingredient too, is no trial and not counted."""
        return CostRecord(
            method=soup.method,
            num_ingredients=len(self.request.trial_indices),
            gpu_hours=self.request.gpu_hours,
            val_accuracy=soup.val_accuracy,
            select_accuracy=soup.select_accuracy,
            test_accuracy=soup.test_accuracy,
            order_seed=self.order_seed,
            predictions=predictions,
        )


def cost_points(
    ingredients: Sequence[IngredientRecord],
    methods: Sequence[str],
    step: int,
    orders: Iterable[int | None],
    request: Request,
) -> list[CostPoint]:
    """All points: per method and order those of step, 2 x step, ... and of all finished trials.

    ``orders`` are seeds, None for search order, which is that of ``ingredients``.
    """
    count = sum(row.status == "finished" for row in ingredients)
    sizes = [*range(step, count, step), count]
    ordered = {order: _in_order(ingredients, order) for order in orders}
    return [
        _point(method, order, rows, size, request)
        for method in methods
        for order, rows in ordered.items()
        for size in sizes
    ]


def _in_order(ingredients: Sequence[IngredientRecord], order_seed: int | None) -> list[IngredientRecord]:
    if order_seed is None:
        return list(ingredients)
    return [ingredients[place] for place in np.random.default_rng(order_seed).permutation(len(ingredients))]


def _point(
    method: str, order_seed: int | None, rows: Sequence[IngredientRecord], size: int, request: Request
) -> CostPoint:
    finished = [row.trial_index for row in rows if row.status == "finished"][:size]
    name = f"cost-accuracy/{method}-{size}" + ("" if order_seed is None else f"-order-{order_seed}")
    # Sorted, so that the same trials in another order are the same soup.
    return CostPoint(name, order_seed, request(method, tuple(sorted(finished)), cumulative_gpu_hours(rows, size)))


def cost_ratios(points: Sequence[CostRecord], correct: Mapping[str, NDArray[np.bool_]]) -> list[CostRatioRecord]:
    """What every pair of methods costs at equal test accuracy.

    ``correct`` says by the path of their predictions which test images (N,) the soups got right. There is nothing to
    compare where curves have one point, and no ratio where trials were free.
    """
    methods = list(dict.fromkeys(point.method for point in points))
    found = []
    for method, baseline in combinations(reversed(methods), 2):
        ours, theirs = (_curves(points, name, correct) for name in (method, baseline))
        if len(ours[0].hours) < 2 or min(curve.hours.min() for curve in (*ours, *theirs)) <= 0:
            continue
        cost = cost_ratio(ours, theirs)
        found.append(
            CostRatioRecord(
                method=method,
                baseline=baseline,
                best_accuracy=float(ours[0].correct.mean(axis=1).max()),
                baseline_best_accuracy=float(theirs[0].correct.mean(axis=1).max()),
                accuracy=cost.accuracy,
                gpu_hours=cost.hours,
                baseline_gpu_hours=cost.baseline_hours,
                orders=len(ours),
                ratio=cost.ratio.estimate,
                low=cost.ratio.low,
                high=cost.ratio.high,
            )
        )
    return found


def with_gains(points: Sequence[CostRecord], correct: Mapping[str, NDArray[np.bool_]]) -> list[CostRecord]:
    """The points, each with the interval of its gain over the one before it in the same curve."""
    found: list[CostRecord] = []
    for point in points:
        before = found[-1] if found else None
        if before is not None and (before.method, before.order_seed) == (point.method, point.order_seed):
            now, then = correct[str(point.predictions)], correct[str(before.predictions)]
            gain = paired_interval(int((now & ~then).sum()), int((then & ~now).sum()), len(now))
            found.append(point.model_copy(update={"gain_low": gain.low, "gain_high": gain.high}))
        else:
            found.append(point)
    return found


def _curves(points: Sequence[CostRecord], method: str, correct: Mapping[str, NDArray[np.bool_]]) -> list[Curve]:
    """The curve of a method in every order, search order first."""
    by_order: dict[int | None, list[CostRecord]] = {}
    for point in points:
        if point.method == method:
            by_order.setdefault(point.order_seed, []).append(point)
    return [
        Curve(np.array([row.gpu_hours for row in rows]), np.stack([correct[str(row.predictions)] for row in rows]))
        for rows in by_order.values()
    ]
