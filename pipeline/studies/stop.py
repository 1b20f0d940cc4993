"""When a sweep does not pay any more: the rule `search.stop`, as a function of what is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from pipeline.config import StopConfig
from pipeline.digits import apart
from pipeline.records import CostRecord, Hyperparameters, IngredientRecord, cost_unit, costs


def over_budget(
    rule: StopConfig,
    price: float | None,
    rows: Sequence[IngredientRecord],
    under_way: Sequence[Hyperparameters],
    upcoming: Hyperparameters,
) -> str | None:
    """Why the trial ``upcoming`` is not begun: it would be too much. None: there is room for it.

    ``rows`` are the trials that have ended; those ``under_way`` and the next one are expected to cost as much an epoch
    as those that finished: nothing, before the first has. ``price`` is that of a GPU hour.
    """
    finished = [row for row in rows if row.status in ("finished", "left-out")]
    epochs = sum(int(str(row.hyperparameters["epochs"])) for row in finished)
    unit = cost_unit(rows)
    spent = costs(rows).get(unit, 0.0)
    per_epoch = costs(finished).get(unit, 0.0) / epochs if epochs else 0.0
    committed = spent + per_epoch * sum(trial.epochs for trial in under_way)
    expected = committed + per_epoch * upcoming.epochs
    limits = {"max_gpu_hours": (rule.max_gpu_hours, 1.0, f" {unit}"), "max_price": (rule.max_price, price or 0.0, "")}
    for name, (limit, factor, what) in limits.items():
        if limit is not None and factor * expected > limit:
            so_far, then, most = apart([factor * committed, factor * expected, limit])
            begun = f"the {len(rows) + len(under_way)} trials so far come to {so_far}{what}"
            if not epochs:
                return f"search.stop.{name}: {begun}, over {most}, and none of them finished"
            return f"search.stop.{name}: {begun}, and the next would make it {then}, over {most}"
    return None


def gains_per_hours(rule: StopConfig, points: Sequence[CostRecord]) -> list[float]:
    """What the gain on `select` in ``rule.per_gpu_hours`` may be at most, at each point of one curve after its first.

    The upper end of the 95 % interval of the paired gain over the point before, by the hours between the two; infinite
    where these are none, or no gain is known.
    """
    bounds = []
    for before, point in pairwise(points):
        hours = point.gpu_hours - before.gpu_hours
        known = point.select_gain_high is not None and hours > 0
        bounds.append((point.select_gain_high or 0.0) / hours * rule.per_gpu_hours if known else float("inf"))
    return bounds


def no_more_gain(rule: StopConfig, points: Sequence[CostRecord]) -> str | None:
    """Why the soups of ``points``, in search order, are not worth more trials; None: they are, or may be.

    All methods must have had too little gain in ``rule.patience`` points one after the other.
    """
    if rule.min_gain is None:
        return None
    highest: dict[str, float] = {}  # by method
    for method in dict.fromkeys(point.method for point in points):
        bounds = gains_per_hours(rule, [point for point in points if point.method == method])[-rule.patience :]
        if len(bounds) < rule.patience or max(bounds) >= rule.min_gain:
            return None
        highest[method] = max(bounds)
    if not highest:
        return None
    count = max(point.num_ingredients for point in points)
    percentage_points = [100 * gain for gain in (rule.min_gain, *highest.values())]
    least, *most = apart(percentage_points, lambda gain, decimals: f"{gain:+.{decimals}f}", 2)
    lasts = ", ".join(f"{method} {bound}" for method, bound in zip(highest, most, strict=True))
    return (
        f"search.stop.min_gain: in each of the last {rule.patience} steps up to {count} ingredients, soups gained at "
        f"most ({lasts}) points on select in {rule.per_gpu_hours:g} hours, less than {least} (95 %)"
    )
