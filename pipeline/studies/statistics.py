"""Is one soup better than another, and what does greedy cost for the same accuracy? Functions of records alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
# Resampled images that are counted at a time: bounds the memory.
_DRAWN_AT_ONCE = 4_000_000


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
    from scipy.stats import binomtest  # slow to import, and many commands only want the names of the studies

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


@dataclass(frozen=True)
class Curve:
    """A cost curve: the cost (P,) of its soups, and which of the same N test images each gets right (P, N)."""

    hours: NDArray[np.float64]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class CostAtEqualAccuracy:
    """``hours`` and ``baseline_hours`` are what two methods take for the highest test ``accuracy`` that both reach.

    ``ratio`` is baseline over method, of the mean hours where there are several curves of each.
    """

    accuracy: float
    hours: float
    baseline_hours: float
    ratio: Interval


def cost_ratio(method: Sequence[Curve], baseline: Sequence[Curve], seed: int = 0) -> CostAtEqualAccuracy:
    """How many times the cost of ``method`` the ``baseline`` takes (Fig. 2 of the MEHL-Soup paper).

    Pairs of curves are of repeated sweeps or of orders of one sweep, on the same test images; accuracy and hours are
    those of the first pair. The interval resamples pairs and images independently, as `accuracy_difference` does.
    Hours must be above 0.
    """
    images = method[0].correct.shape[1]
    generator = np.random.default_rng(seed)
    once = np.ones((1, images))
    exact = [_at_equal_accuracy(ours, theirs, once) for ours, theirs in zip(method, baseline, strict=True)]
    accuracy, hours, baseline_hours = exact[0]
    ratios: list[float] = []
    while len(ratios) < _RESAMPLES:
        draws = min(_RESAMPLES - len(ratios), max(_DRAWN_AT_ONCE // images, 1))
        of_images = generator.multinomial(images, np.full(images, 1 / images), size=draws)
        of_pairs = generator.multinomial(len(method), np.full(len(method), 1 / len(method)), size=draws)
        drawn = [_at_equal_accuracy(ours, theirs, of_images)[1:] for ours, theirs in zip(method, baseline, strict=True)]
        mean_hours, mean_baseline = (
            sum(weights * pair[side] for weights, pair in zip(of_pairs.T, drawn, strict=True)) for side in (0, 1)
        )
        ratios += list(mean_baseline / mean_hours)
    low, high = np.quantile(ratios, [0.025, 0.975])
    estimate = sum(float(theirs[0]) for _, _, theirs in exact) / sum(float(ours[0]) for _, ours, _ in exact)
    return CostAtEqualAccuracy(
        float(accuracy[0]), float(hours[0]), float(baseline_hours[0]), Interval(estimate, float(low), float(high))
    )


def _at_equal_accuracy(
    method: Curve, baseline: Curve, weights: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The highest accuracy that both reach, what each takes for it, for every row of ``weights`` (R, N) of images."""
    ours, theirs = (weights @ curve.correct.T / weights.sum(axis=1, keepdims=True) for curve in (method, baseline))
    level = np.minimum(ours.max(axis=1), theirs.max(axis=1))
    hours, baseline_hours = (
        np.where(reached >= level[:, None], curve.hours, np.inf).min(axis=1)
        for reached, curve in ((ours, method), (theirs, baseline))
    )
    return level, hours, baseline_hours
