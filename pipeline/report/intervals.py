"""How far an accuracy may lie from the truth, given the number of images that it was measured on."""

from __future__ import annotations

from math import hypot

from scipy.stats import binom

from pipeline.records import RunRecord


def interval(accuracy: float, num_images: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of an accuracy, as fractions.

    Resampled images are right or wrong independently, so their number is binomial and nothing need be drawn.
    """
    if num_images < 1:
        raise ValueError("an accuracy needs at least one image")
    low, high = binom.ppf([0.025, 0.975], num_images, accuracy) / num_images
    return float(low), float(high)


def difference_margin(first: float, second: float, num_images: int) -> float:
    """Half-width for the difference of two accuracies, as a fraction, as if they came from different images.

    On the same images errors go together, so this is the cautious side; the exact (paired) test needs predictions.
    """
    halves = ((high - low) / 2 for low, high in (interval(first, num_images), interval(second, num_images)))
    return hypot(*halves)


def split_size(run: RunRecord, name: str) -> int | None:
    """The number of images of a split of the run, None where it has no images or was not recorded."""
    return next((split.size for split in run.splits if split.name == name and split.size), None)
