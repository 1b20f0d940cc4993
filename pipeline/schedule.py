"""The learning-rate schedule of fine-tuning and of coefficients. Needs the standard library alone."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "linear", "constant"]


def learning_rate(peak: float, step: int, steps: int, *, warmup: float, schedule: Schedule = "cosine") -> float:
    """The learning rate of one step: a linear rise to ``peak``, then ``schedule``.

    With w = int(warmup * steps) steps of warm-up:

        peak * (step + 1) / w                                         while step < w
        peak * (1 + cos(pi * (step - w) / (steps - w))) / 2           then, ``cosine``: falls to zero at ``steps``
        peak * (steps - step) / (steps - w)                           then, ``linear``: the same in a straight line
        peak                                                          then, ``constant``

    Args:
        peak: The highest learning rate.
        step: Which step, from 0 to ``steps`` - 1.
        steps: How many steps there are in all.
        warmup: Part of the steps that rise, in [0, 1).
        schedule: What follows the rise.
    """
    rising = int(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    if schedule == "constant":
        return peak
    part = (step - rising) / (steps - rising)
    return peak * (1 - part if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * part)))
