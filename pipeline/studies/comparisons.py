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
from pipeline.studies.statistics import (
    Predicted,
    Score,
    bootstrap_interval,
    bootstrap_p,
    mcnemar,
    paired_interval,
    resampled_scores,
)

_RESAMPLES = 10_000  # as many as small p-values, corrected for all pairs, need


def compare_methods(models: Mapping[str, Predicted], score: Score | None = None) -> list[ComparisonRecord]:
    """All pairs, in the order of the methods; ``models`` says what each predicted for the same test images.

    By accuracy p-values are those of the exact McNemar test, by another ``score`` of the paired bootstrap. Corrected as
    Benjamini and Yekutieli (2001) do, which holds however the tests depend on each other: they share images and models.
    """
    from scipy.stats import false_discovery_control  # slow to import

    correct = {name: model.correct for name, model in models.items()}
    pairs = list(combinations(models, 2))
    resamples: Mapping[str, NDArray[np.float64]] = {}
    if score is None:
        p_values = [mcnemar(correct[one], correct[other]) for one, other in pairs]
    else:
        resamples = resampled_scores(models, score, _RESAMPLES) if pairs else {}
        p_values = [bootstrap_p(resamples[one] - resamples[other]) for one, other in pairs]
    adjusted = false_discovery_control(p_values, method="by") if pairs else []
    comparisons = []
    for (one, other), p_value, p_adjusted in zip(pairs, p_values, adjusted, strict=True):
        wins = int((correct[one] & ~correct[other]).sum())
        losses = int((correct[other] & ~correct[one]).sum())
        if score is None:
            interval = paired_interval(wins, losses, len(correct[one]))
        else:
            first, second = (score(models[name].labels, models[name].predictions) for name in (one, other))
            interval = bootstrap_interval(first - second, resamples[one] - resamples[other])
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
    models = {soup.method: inputs.predicted(predictions_path(soup.method)) for soup in inputs.soups}
    return {"comparisons": compare_methods(models, inputs.score)}


COMPARISONS = Study(tables={"comparisons": ComparisonRecord}, rows=_rows)
