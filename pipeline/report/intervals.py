"""How far an accuracy may lie from the truth, given the number of images that it was measured on."""

from __future__ import annotations

import functools

from pipeline.metrics import ACCURACY
from pipeline.records import RunRecord


@functools.cache  # a figure is drawn for the page and as a file
def interval(accuracy: float, num_images: int) -> tuple[float, float]:
    """95 % interval (Wilson's) of an accuracy, as fractions: images are right or wrong independently."""
    from scipy.stats import binomtest  # slow to import

    if num_images < 1:
        raise ValueError("an accuracy needs at least one image")
    wilson = binomtest(round(accuracy * num_images), num_images).proportion_ci(method="wilson")
    return float(wilson.low), float(wilson.high)


def exact_size(run: RunRecord) -> int | None:
    """The number of test images, where they give an `interval`: None where another metric than accuracy decides."""
    return split_size(run, "test") if run.metric == ACCURACY else None


def split_size(run: RunRecord, name: str) -> int | None:
    """The number of images of a split of the run, None where it has no images or was not recorded."""
    return next((split.size for split in run.splits if split.name == name and split.size), None)
