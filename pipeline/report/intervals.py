"""How far an accuracy may lie from the truth, given the number of images that it was measured on."""

from __future__ import annotations

from math import hypot, sqrt

from pipeline.records import RunRecord

_Z95 = 1.959964


def margin(accuracy: float, num_images: int) -> float:
    """Half-width of the 95 % Wilson interval of an accuracy, as a fraction."""
    if num_images < 1:
        raise ValueError("an accuracy needs at least one image")
    z2 = _Z95**2
    spread = accuracy * (1 - accuracy) / num_images + z2 / (4 * num_images**2)
    return _Z95 * sqrt(spread) / (1 + z2 / num_images)


def difference_margin(first: float, second: float, num_images: int) -> float:
    """Half-width for the difference of two accuracies, as a fraction, as if they came from different images.

    On the same images errors go together, so this is the cautious side; the exact (paired) test needs predictions.
    """
    return hypot(margin(first, num_images), margin(second, num_images))


def split_size(run: RunRecord, name: str) -> int | None:
    """The number of images of a split of the run, None where it has no images or was not recorded."""
    return next((split.size for split in run.splits if split.name == name and split.size), None)
