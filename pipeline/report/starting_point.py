"""theta0, the starting point that all trials share, beside the methods: its row, its point, and who is below it."""

from __future__ import annotations

from pipeline.records import CPU_CORE_HOURS, GPU_HOURS, CoefficientRecord, RunRecord, RunResults, SoupRecord
from pipeline.report.formats import percent, significant
from pipeline.report.intervals import interval, split_size
from pipeline.report.plot import Series
from pipeline.report.styles import GREY

LABEL = "Starting point"
_UNITS = {"cpu": CPU_CORE_HOURS, "cuda": GPU_HOURS}


def below_start(run: RunRecord, champion: SoupRecord) -> str:
    """Where the champion is less accurate than the starting point: ``select 71.00 % against 74.00 %``.

    Compared are the split that chose the champion (validation where there is no select) and test. Empty where it is
    below on neither, and where nothing is known of the starting point.
    """
    chooser = ("select", "select_accuracy") if champion.select_score is not None else ("validation", "val_accuracy")
    pairs = [
        (split, getattr(champion, column), run.theta0_figures[column])
        for split, column in (chooser, ("test", "test_accuracy"))
        if column in run.theta0_figures
    ]
    return ", ".join(
        f"{split} {percent(reached)} % against {percent(start)} %" for split, reached, start in pairs if reached < start
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
    run, images = results.run, split_size(results.run, "test")
    accuracy = run.theta0_score("test")
    if accuracy is None:
        return []
    price = own_cost(run, unit)
    low, high = interval(accuracy, images) if bars and images else (None, None)
    return [
        Series(
            f"{LABEL}{price}",
            *(GREY, "+", "cross-thin"),
            x=[0],
            y=[100 * accuracy],
            low=[] if low is None else [100 * low],
            high=[] if high is None else [100 * high],
            line=None,
            hover=[] if bars else [f"<b>{LABEL}</b>{price}<br>test {percent(accuracy)} %"],
        )
    ]
