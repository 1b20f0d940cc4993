"""Every pair of methods on the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from pipeline.records import ComparisonRecord, PredictionRecord
from pipeline.studies.statistics import mcnemar, paired_interval


def compare_methods(correct: Mapping[str, NDArray[np.bool_]]) -> list[ComparisonRecord]:
    """All pairs, in the order of the methods; ``correct`` says which of the same test images (N,) each got right.

    Corrected as Benjamini and Yekutieli (2001) do, which holds however the tests depend on each other: they share
    images and models.
    """
    pairs = list(combinations(correct, 2))
    p_values = [mcnemar(correct[one], correct[other]) for one, other in pairs]
    adjusted = false_discovery_control(p_values, method="by") if pairs else []
    found = []
    for (one, other), p_value, p_adjusted in zip(pairs, p_values, adjusted, strict=True):
        wins = int((correct[one] & ~correct[other]).sum())
        losses = int((correct[other] & ~correct[one]).sum())
        interval = paired_interval(wins, losses, len(correct[one]))
        found.append(
            ComparisonRecord(
                method=one,
                baseline=other,
                difference=interval.estimate,
                low=interval.low,
                high=interval.high,
                wins=wins,
                losses=losses,
                p_value=p_value,
                p_adjusted=float(p_adjusted),
            )
        )
    return found


def correct_on_test(rows: Sequence[PredictionRecord]) -> NDArray[np.bool_]:
    """Whether each test image, by index, was predicted right."""
    test = sorted((row for row in rows if row.split == "test"), key=lambda row: row.image_index)
    return np.array([row.prediction == row.label for row in test], dtype=np.bool_)
