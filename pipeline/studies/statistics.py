"""Is one soup better than another, and what does greedy cost for the same accuracy? Functions of records alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
# Resampled images that are counted at a time: bounds the memory.
_DRAWN_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Predicted:
    """What a model predicted for images (N,), and what they show, as numbers of classes."""

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image (N,) was predicted right."""
        return np.equal(self.labels, self.predictions)


# A metric of labels and predictions of the same images (N,).
Score: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], float]


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
    # A resample is a weight per sweep (how often it was drawn) and N drawn images; its estimate is the mean over the
    # drawn images of the weighted mean (N,) over the sweeps.
    sweep_weights = generator.multinomial(sweeps, np.full(sweeps, 1 / sweeps), size=_RESAMPLES) / sweeps
    means = np.empty(_RESAMPLES)
    for resample, weights in enumerate(sweep_weights):
        means[resample] = (weights @ difference)[generator.integers(images, size=images)].mean()
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def paired_interval(wins: int, losses: int, images: int, seed: int = 0) -> Interval:
    """Difference of the accuracies of two models of which each got ``wins`` or ``losses`` right that the other did not.

    The interval resamples the images: what that draws of wins, losses and ties is multinomial.
    """
    ties = images - wins - losses
    counts = np.random.default_rng(seed).multinomial(images, np.array([wins, losses, ties]) / images, size=_RESAMPLES)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / images, [0.025, 0.975])
    return Interval((wins - losses) / images, float(low), float(high))


def resampled_scores(
    models: Mapping[str, Predicted], score: Score, resamples: int = _RESAMPLES, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """The scores (R,) of each of the models on the same resamples of their common images (paired bootstrap).

    The plain way, for metrics of which nothing is known: images are drawn, and every model is scored on those.
    """
    generator = np.random.default_rng(seed)
    images = len(next(iter(models.values())).labels)
    scores = {name: np.empty(resamples) for name in models}
    for resample in range(resamples):
        drawn = generator.integers(images, size=images)
        for name, model in models.items():
            scores[name][resample] = score(model.labels[drawn], model.predictions[drawn])
    return scores


def bootstrap_interval(estimate: float, differences: NDArray[np.float64]) -> Interval:
    """A difference of scores with the 95 % interval of its resamples (R,)."""
    low, high = np.quantile(differences, [0.025, 0.975])
    return Interval(estimate, float(low), float(high))


def bootstrap_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value that two models score alike: how often resamples (R,) of the difference reach across 0."""
    across = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (across + 1) / (len(differences) + 1))


@dataclass(frozen=True)
class Curve:
    """A cost curve: the cost (P,) of its soups, and which of the same N test images each gets right (P, N).

    Where another metric than accuracy decides, ``scores`` is that of the soups (P), each with its predictions.
    """

    hours: NDArray[np.float64]
    correct: NDArray[np.bool_]
    scores: Callable[[NDArray[np.int64]], list[float]] | None = None
    """Of the images with these indices, an image once for each time that it is there."""

    def measured(self, counts: NDArray[Any]) -> NDArray[np.float64]:
        """What decides, of all soups, where images count as often as each row of ``counts`` (R, N) says: (R, P)."""
        if self.scores is None:
            accuracies: NDArray[np.float64] = counts @ self.correct.T / counts.sum(axis=1, keepdims=True)
            return accuracies
        every = np.arange(counts.shape[1])
        return np.array([self.scores(np.repeat(every, row.astype(np.int64))) for row in counts])


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
    pairs = list(zip(method, baseline, strict=True))
    # As measured: every image counts once, so each array that comes back has one element.
    each_once = np.ones((1, images))
    measured = [_at_equal_accuracy(curve, other, each_once) for curve, other in pairs]
    accuracy, hours, baseline_hours = measured[0]
    # Resampled: a resample is how often each image was drawn and how often each pair was. For all resamples of a round
    # (R) at once, each pair gives the hours of its two curves with these images (R,); they are summed over the pairs,
    # as often as each was drawn, and divided. Which accuracy is reached by both is found anew in every resample.
    ratios: list[float] = []
    while len(ratios) < _RESAMPLES:
        resamples = min(_RESAMPLES - len(ratios), max(_DRAWN_AT_ONCE // images, 1))
        image_counts = generator.multinomial(images, np.full(images, 1 / images), size=resamples)  # (R, N)
        pair_counts = generator.multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=resamples)
        resampled = [_at_equal_accuracy(curve, other, image_counts) for curve, other in pairs]
        summed_hours, summed_baseline_hours = (
            sum(counts * arrays[which] for counts, arrays in zip(pair_counts.T, resampled, strict=True))
            for which in (1, 2)
        )
        ratios += list(summed_baseline_hours / summed_hours)
    low, high = np.quantile(ratios, [0.025, 0.975])
    estimate = sum(float(other[0]) for _, _, other in measured) / sum(float(own[0]) for _, own, _ in measured)
    return CostAtEqualAccuracy(
        float(accuracy[0]), float(hours[0]), float(baseline_hours[0]), Interval(estimate, float(low), float(high))
    )


def _at_equal_accuracy(
    method: Curve, baseline: Curve, weights: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The highest accuracy that both reach, what each takes for it, for every row of ``weights`` (R, N) of images."""
    # Accuracies or scores (R, P) of all points. The lower of the highest points of two curves (R,) is what both reach;
    # a curve pays for it the hours of its cheapest point that is as high.
    scores, baseline_scores = (curve.measured(weights) for curve in (method, baseline))
    common = np.minimum(scores.max(axis=1), baseline_scores.max(axis=1))
    hours, baseline_hours = (
        np.where(points >= common[:, None], curve.hours, np.inf).min(axis=1)
        for points, curve in ((scores, method), (baseline_scores, baseline))
    )
    return common, hours, baseline_hours
