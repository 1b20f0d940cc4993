"""Is one soup better than another, and what does greedy cost for the same accuracy? Functions of records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from pipeline.records import CostRecord

_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float


def mcnemar(correct: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Exact two-sided McNemar test that two models, right or wrong on the same images (N,), are equally accurate.

    Only images on which they differ count: under the null hypothesis each is as likely to be won by either.
    """
    won, lost = int((correct & ~other).sum()), int((~correct & other).sum())
    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def accuracy_difference(correct: NDArray[np.bool_], other: NDArray[np.bool_], seed: int = 0) -> Interval:
    """Mean difference of accuracy over repeated sweeps and their common test images, both (sweeps, N).

    The interval resamples sweeps and images independently (the pigeonhole bootstrap of Owen, 2007, which for such
    crossed data is never too narrow on average), so it speaks about other sweeps and other images of the same kind.
    """
    difference = correct.astype(np.float64) - other
    sweeps, images = difference.shape
    generator = np.random.default_rng(seed)
    of_sweeps = generator.multinomial(sweeps, np.full(sweeps, 1 / sweeps), size=_RESAMPLES) / sweeps
    means = np.empty(_RESAMPLES)
    for row, weights in enumerate(of_sweeps):
        means[row] = (weights @ difference)[generator.integers(images, size=images)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def paired_interval(wins: int, losses: int, images: int, seed: int = 0) -> Interval:
    """Difference of the accuracies of two models of which each got ``wins`` or ``losses`` right that the other did not.

    The interval resamples the images: what that draws of wins, losses and ties is multinomial.
    """
    ties = images - wins - losses
    drawn = np.random.default_rng(seed).multinomial(images, np.array([wins, losses, ties]) / images, size=_RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / images, [0.025, 0.975])
    return Interval((wins - losses) / images, float(low), float(high))


def hours_to_reach(points: Iterable[CostRecord], accuracy: float) -> float | None:
    """Cost of the cheapest soup of a curve whose test accuracy is at least ``accuracy``; None if no soup's is."""
    return min((point.gpu_hours for point in points if point.test_accuracy >= accuracy), default=None)


def cost_ratio(points: Sequence[CostRecord], method: str, baseline: str) -> float | None:
    """How many times the cost of ``method`` the ``baseline`` takes for its own best test accuracy (Fig. 2).

    None where ``method`` does not reach it.
    """
    of_baseline = [point for point in points if point.method == baseline]
    best = max(point.test_accuracy for point in of_baseline)
    hours = hours_to_reach((point for point in points if point.method == method), best)
    spent = hours_to_reach(of_baseline, best)
    return None if hours is None or spent is None else spent / hours
