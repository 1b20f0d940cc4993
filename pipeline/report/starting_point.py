"""theta0, the starting point that all trials share, beside the methods: its row, its point, and who is below it."""

from __future__ import annotations

from pipeline.digits import significant
from pipeline.records import CPU_CORE_HOURS, GPU_HOURS, CoefficientRecord, RunRecord, RunResults, SoupRecord, score
from pipeline.report.formats import percent, percents
from pipeline.report.intervals import exact_size, interval
from pipeline.report.plot import Series
from pipeline.report.styles import GREY

LABEL = "Starting point"
_UNITS = {"cpu": CPU_CORE_HOURS, "cuda": GPU_HOURS}


def below_start(run: RunRecord, champion: SoupRecord) -> str:
    """Where the champion is worse than the starting point: ``select 71.00 % against 74.00 %``.

    Compared are the split that chose the champion (validation where there is no select) and test. Empty where it is
    below on neither, and where nothing is known of the starting point.
    """
    chooser = ("select", "select") if champion.select_score is not None else ("validation", "val")
    pairs = [
        (name, score(champion, split) or 0.0, start)
        for name, split in (chooser, ("test", "test"))
        if (start := run.theta0_score(split)) is not None
    ]
    return ", ".join(
        "{} {} % against {} %".format(name, *percents(reached, start))
        for name, reached, start in pairs
        if reached < start
    )


def own_unit(run: RunRecord, unit: str) -> str:
    """The unit of theta0's cost: it may have been made on another device than the trials, whose cost is in ``unit``."""
    return _UNITS.get(run.theta0_device or "", unit)


def own_cost(run: RunRecord, unit: str) -> str:
    """`` (0.2 GPU hours of its own)``; empty where it is not known."""
    hours = run.theta0_gpu_hours
    return "" if hours is None else f" ({significant(hours)} {own_unit(run, unit)} of its own)"


def is_start(coefficients: list[CoefficientRecord]) -> bool:
    """Whether a soup is theta0 itself, which may be an ingredient too (with a negative trial index)."""
    used = {row.trial_index for row in coefficients if row.coefficient != 0}
    return bool(used) and max(used) < 0


def start_series(results: RunResults, unit: str, *, bars: bool = False) -> list[Series]:
    """The starting point as the point of no ingredients and no trials, its own cost beside; none where not known."""
    run, images = results.run, exact_size(results.run)
    value = run.theta0_score("test")
    if value is None:
        return []
    price = own_cost(run, unit)
    low, high = interval(value, images) if bars and images else (None, None)
    return [
        Series(
            LABEL,
            *(GREY, "+", "cross-thin"),
            x=[0],
            y=[100 * value],
            low=[] if low is None else [100 * low],
            high=[] if high is None else [100 * high],
            line=None,
            hover=[f"<b>{LABEL}</b>{price}<br>test {percent(value)} %"],
        )
    ]
