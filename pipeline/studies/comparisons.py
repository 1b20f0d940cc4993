"""Every pair of methods on the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.records import ComparisonRecord, Record
from pipeline.records.folder import predictions_path
from pipeline.studies.base import Study, StudyInputs
from pipeline.studies.statistics import mcnemar, paired_interval


def compare_methods(correct: Mapping[str, NDArray[np.bool_]]) -> list[ComparisonRecord]:
    """All pairs, in the order of the methods; ``correct`` says which of the same test images (N,) each got right.

    Corrected as Benjamini and Yekutieli (2001) do, which holds however the tests depend on each other: they share
    images and models.
    """
    from scipy.stats import false_discovery_control  # slow to import

    pairs = list(combinations(correct, 2))
    p_values = [mcnemar(correct[one], correct[other]) for one, other in pairs]
    adjusted = false_discovery_control(p_values, method="by") if pairs else []
    comparisons = []
    for (one, other), p_value, p_adjusted in zip(pairs, p_values, adjusted, strict=True):
        wins = int((correct[one] & ~correct[other]).sum())
        losses = int((correct[other] & ~correct[one]).sum())
        interval = paired_interval(wins, losses, len(correct[one]))
        comparisons.append(
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
    return comparisons


def _rows(inputs: StudyInputs, answers: Mapping[str, Any]) -> Mapping[str, Sequence[Record]]:
    correct = {soup.method: inputs.correct(predictions_path(soup.method)) for soup in inputs.soups}
    return {"comparisons": compare_methods(correct)}


COMPARISONS = Study(tables={"comparisons": ComparisonRecord}, rows=_rows)
