"""Accuracy against fine-tuning cost (Fig. 2 of the MEHL-Soup paper), in search order and in random ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config import Config, Count, Known, MethodName, Once, Section
from pipeline.records import (
    CPU_CORE_HOURS,
    SCORES,
    CostRatioRecord,
    CostRecord,
    IngredientRecord,
    Record,
    cost_unit,
    costs,
    cumulative_gpu_hours,
    trials_up_to,
)
from pipeline.soup_requests import SoupRequest
from pipeline.studies.base import BuiltSoup, Study, StudyInputs
from pipeline.studies.statistics import (
    Curve,
    Interval,
    Predicted,
    Score,
    bootstrap_interval,
    cost_ratio,
    paired_interval,
    resampled_scores,
)


class CostAccuracySettings(Section):
    """Accuracy against fine-tuning cost, as in Fig. 2 of the MEHL-Soup paper."""

    methods: Annotated[list[MethodName], Once] = Field(["greedy", "mehl-plus"], min_length=1)
    """Methods to follow."""
    step: Count = Field(4, ge=1)
    """Soups of step, 2 x step, ... ingredients."""
    orders: Count = Field(0, ge=0, le=10_000)
    """Random orders of the trials that are followed beside search order."""
    live: bool = False
    """Build each soup in search order while the sweep runs, as soon as its trials have ended: it takes the place of a
    trial for a while. The best so far is the champion, and `search.stop` may end the sweep."""


def _resolve(settings: CostAccuracySettings, config: Config, known: Known) -> Any:
    stop, problems = config.search.stop, []
    if stop.min_gain is None:
        return settings
    if not settings.live:
        problems.append("search.stop.min_gain: looks at soups of the trials so far; give study.cost_accuracy.live=true")
    if config.data.select_fraction == 0:
        problems.append("search.stop.min_gain: gains are measured on select, and data.select_fraction is 0")
    # The first point has no gain, and after the last trial there is nothing to end.
    needed, points = stop.patience + 1, (config.search.num_trials - 1) // settings.step
    if points < needed:
        problems.append(
            f"search.stop.min_gain: speaks at point {needed} of the curve (patience {stop.patience}), and before its "
            f"last trial the sweep has {points}; lower study.cost_accuracy.step or patience"
        )
    if problems:
        raise ValueError("; ".join(problems))
    return settings


@dataclass(frozen=True)
class CostPoint:
    """A soup of the curve: of the first finished trials in search order, or in the order drawn with ``order_seed``."""

    name: str
    order_seed: int | None
    request: SoupRequest
    cpu_core_hours: float | None = None

    def record(self, built: BuiltSoup) -> CostRecord:
        """Its row; theta0, where it is an ingredient too, is no trial and not counted."""
        soup = built.record
        return CostRecord(
            method=soup.method,
            num_ingredients=len(self.request.ingredients),
            gpu_hours=self.request.gpu_hours,
            val_accuracy=soup.val_accuracy,
            select_accuracy=soup.select_accuracy,
            test_accuracy=soup.test_accuracy,
            order_seed=self.order_seed,
            predictions=built.predictions,
            cpu_core_hours=self.cpu_core_hours,
            block_size=soup.block_size,
            **{name: value for name, value in soup.scores.items() if name in SCORES},
        )


def cost_points(inputs: StudyInputs) -> list[CostPoint]:
    """All points: per method and order those of step, 2 x step, ... and of all finished trials.

    The first order is search order, that of the ingredients.
    """
    settings: CostAccuracySettings = inputs.settings
    sizes = _sizes(inputs, have_ended=True)
    orders = {seed: _in_order(inputs.ingredients, seed) for seed in (None, *range(1, settings.orders + 1))}
    return [
        _point(inputs, method, seed, rows, size)
        for method in settings.methods
        for seed, rows in orders.items()
        for size in sizes
    ]


def points_so_far(inputs: StudyInputs, *, have_ended: bool) -> list[CostPoint]:
    """Those of `cost_points` in search order that are known of a sweep whose first trials have ended, by size.

    ``inputs`` have these trials alone; ``have_ended``: there are no others.
    """
    settings: CostAccuracySettings = inputs.settings
    sizes = _sizes(inputs, have_ended=have_ended)
    return [_point(inputs, method, None, inputs.ingredients, size) for size in sizes for method in settings.methods]


def _sizes(inputs: StudyInputs, *, have_ended: bool) -> list[int]:
    """Of how many ingredients there are soups: step, 2 x step, ... and, once all trials have ended, all."""
    count, step = len(inputs.finished), inputs.settings.step
    return sorted({*range(step, count + 1, step), *([count] if have_ended and count else [])})


def _in_order(ingredients: Sequence[IngredientRecord], order_seed: int | None) -> list[IngredientRecord]:
    if order_seed is None:
        return list(ingredients)
    return [ingredients[index] for index in np.random.default_rng(order_seed).permutation(len(ingredients))]


def _point(
    inputs: StudyInputs, method: str, order_seed: int | None, rows: Sequence[IngredientRecord], size: int
) -> CostPoint:
    finished = [row.trial_index for row in rows if row.is_ingredient][:size]
    name = f"cost-accuracy/{method}-{size}" + ("" if order_seed is None else f"-order-{order_seed}")
    # Sorted, so that the same trials in another order are the same soup.
    request = inputs.request(method, sorted(finished), cumulative_gpu_hours(rows, size))
    # Where the curve counts GPU hours: what ran without one is never added to them.
    beside = None if cost_unit(rows) == CPU_CORE_HOURS else costs(trials_up_to(rows, size)).get(CPU_CORE_HOURS)
    return CostPoint(name, order_seed, request, beside)


def cost_ratios(
    points: Sequence[CostRecord], models: Mapping[str, Predicted], score: Score | None = None
) -> list[CostRatioRecord]:
    """What every pair of methods costs at equal test accuracy, or at an equal ``score`` by another metric.

    ``models`` says by their path what the soups predicted for the test images. There is nothing to compare where curves
    have one point, and no ratio where trials were free or their cost is in two units.
    """
    if any(point.cpu_core_hours is not None for point in points):
        return []
    methods = list(dict.fromkeys(point.method for point in points))
    ratios = []
    for method, baseline in combinations(reversed(methods), 2):
        ours, theirs = (_curves(points, name, models, score) for name in (method, baseline))
        if len(ours[0].hours) < 2 or min(curve.hours.min() for curve in (*ours, *theirs)) <= 0:
            continue
        cost = cost_ratio(ours, theirs)
        ratios.append(
            CostRatioRecord(
                method=method,
                baseline=baseline,
                best_accuracy=_best(ours[0]),
                baseline_best_accuracy=_best(theirs[0]),
                accuracy=cost.accuracy,
                gpu_hours=cost.hours,
                baseline_gpu_hours=cost.baseline_hours,
                orders=len(ours),
                ratio=cost.ratio.estimate,
                low=cost.ratio.low,
                high=cost.ratio.high,
            )
        )
    return ratios


def _best(curve: Curve) -> float:
    """What the best soup of a curve has on the images as they are."""
    if curve.scores is None:
        return float(curve.correct.mean(axis=1).max())
    return max(curve.scores(np.arange(curve.correct.shape[1])))


def with_gains(
    points: Sequence[CostRecord],
    models: Mapping[str, Predicted],
    models_on_select: Mapping[str, Predicted],
    score: Score | None = None,
) -> list[CostRecord]:
    """The points, each with the intervals of its gains over the one before it in the same curve.

    ``models`` and ``models_on_select`` say by their path what the soups predicted for images of `test` and of `select`;
    there may be none in `select`. Gains are those of accuracy, or of a ``score`` by another metric.
    """
    gain_on = {"": _gains(models, score), "select_": _gains(models_on_select, score)}
    rows: list[CostRecord] = []
    for point in points:
        before = rows[-1] if rows else None
        gains: dict[str, float] = {}
        if before is not None and (before.method, before.order_seed) == (point.method, point.order_seed):
            for prefix, gain_of in gain_on.items():
                if (gain := gain_of(str(point.predictions), str(before.predictions))) is not None:
                    gains |= {f"{prefix}gain_low": gain.low, f"{prefix}gain_high": gain.high}
        rows.append(point.model_copy(update=gains))
    return rows


def _gains(models: Mapping[str, Predicted], score: Score | None) -> Callable[[str, str], Interval | None]:
    """What the first of two soups, by path, gains over the second; None where there are no images."""
    if score is None or not any(len(model.labels) for model in models.values()):

        def by_accuracy(path: str, before: str) -> Interval | None:
            now, then = models[path].correct, models[before].correct
            if not len(now):
                return None
            return paired_interval(int((now & ~then).sum()), int((then & ~now).sum()), len(now))

        return by_accuracy
    scores = resampled_scores(models, score)
    return lambda path, before: bootstrap_interval(
        float(np.mean(scores[path] - scores[before])), scores[path] - scores[before]
    )


def _curves(
    points: Sequence[CostRecord], method: str, models: Mapping[str, Predicted], score: Score | None
) -> list[Curve]:
    """The curve of a method in every order, search order first."""
    by_order: dict[int | None, list[CostRecord]] = {}
    for point in points:
        if point.method == method:
            by_order.setdefault(point.order_seed, []).append(point)
    return [
        _curve([row.gpu_hours for row in rows], [models[str(row.predictions)] for row in rows], score)
        for rows in by_order.values()
    ]


def _curve(hours: Sequence[float], models: Sequence[Predicted], score: Score | None) -> Curve:
    def scores(drawn: NDArray[np.int64]) -> list[float]:
        assert score is not None  # noqa: S101 (else it is not called)
        return [score(model.labels[drawn], model.predictions[drawn]) for model in models]

    correct = np.stack([model.correct for model in models])
    return Curve(np.array(hours), correct, None if score is None else scores)


def cost_rows(inputs: StudyInputs, rows: Sequence[CostRecord]) -> list[CostRecord]:
    """The points of one curve after the other, with their gains."""
    models, on_select = _predictions(inputs, rows, "test"), _predictions(inputs, rows, "select")
    return with_gains(rows, models, on_select, inputs.score)


def _predictions(inputs: StudyInputs, rows: Sequence[CostRecord], split: str) -> dict[str, Predicted]:
    return {path: inputs.predicted(path, split) for path in {str(row.predictions) for row in rows}}


def _rows(inputs: StudyInputs, soups: Mapping[str, BuiltSoup]) -> Mapping[str, Sequence[Record]]:
    rows = cost_rows(inputs, [point.record(soups[point.name]) for point in cost_points(inputs)])
    return {
        "cost_accuracy": rows,
        "cost_ratios": cost_ratios(rows, _predictions(inputs, rows, "test"), inputs.score),
    }


COST_ACCURACY = Study(
    tables={"cost_accuracy": CostRecord, "cost_ratios": CostRatioRecord},
    requests=lambda inputs: {point.name: point.request for point in cost_points(inputs)},
    rows=_rows,
    settings=CostAccuracySettings,
    resolve=_resolve,
    curve="cost_accuracy",
)
