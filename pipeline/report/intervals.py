"""How far an accuracy may lie from the truth, given the number of images that it was measured on."""

from __future__ import annotations

from scipy.stats import binom, binomtest

from pipeline.records import RunRecord


def interval(accuracy: float, num_images: int) -> tuple[float, float]:
    """95 % percentile bootstrap interval of an accuracy, as fractions.

    Resampled images are right or wrong independently, so their number is binomial and nothing need be drawn. Where all
    are right or all wrong, resampling knows nothing: then it is the exact interval (Clopper and Pearson).
    """
    if num_images < 1:
        raise ValueError("an accuracy needs at least one image")
    if accuracy in (0, 1):
        exact = binomtest(round(accuracy * num_images), num_images).proportion_ci(method="exact")
        return float(exact.low), float(exact.high)
    low, high = binom.ppf([0.025, 0.975], num_images, accuracy) / num_images
    return float(low), float(high)


def split_size(run: RunRecord, name: str) -> int | None:
    """The number of images of a split of the run, None where it has no images or was not recorded."""
    return next((split.size for split in run.splits if split.name == name and split.size), None)
