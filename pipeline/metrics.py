"""What a run is decided by: `METRICS`, functions of labels and predicted classes. Needs NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ACCURACY = "accuracy"
Classes: TypeAlias = NDArray[np.int64]  # (N,), each from 0 to the number of classes - 1
# Of labels (N,), predictions (N,), N >= 1, and the number of classes.
MetricFunction: TypeAlias = Callable[[Classes, Classes, int], float]


@dataclass(frozen=True)
class Metric:
    """What decides a run in place of accuracy: more is better, never above 1, never below 0 (Matthews: -1).

    Attributes:
        name: In METRICS, the settings, records and MLflow.
        label: What people read within a sentence.
        score: Computes it, for any labels and predictions; whole sets alone, as it need be no mean over images.
        num_classes: The only number of classes that it is defined for; None: any.
        instead: The name of the nearest metric for data with another number of classes.
    """

    name: str
    label: str
    score: MetricFunction
    num_classes: int | None = None
    instead: str = ACCURACY

    def unfit(self, num_classes: int) -> str | None:
        """Why it cannot be used with so many classes, and what can; None where it can."""
        if self.num_classes in (None, num_classes):
            return None
        return (
            f"'{self.name}' is defined for {self.num_classes} classes, and there are {num_classes}; "
            f"give '{self.instead}'"
        )


def _accuracy(labels: Classes, predictions: Classes, num_classes: int) -> float:
    return float((labels == predictions).mean())


def _counts(labels: Classes, predictions: Classes, num_classes: int) -> tuple[Classes, Classes, Classes]:
    """Of each class (C,): how often it was predicted rightly, how often it was predicted, how often it is there."""
    right = labels[labels == predictions]
    hits, predicted, present = (np.bincount(values, minlength=num_classes) for values in (right, predictions, labels))
    return hits, predicted, present


def _balanced_accuracy(labels: Classes, predictions: Classes, num_classes: int) -> float:
    """The mean over the classes that are there of the share of each that was found."""
    hits, _, present = _counts(labels, predictions, num_classes)
    there = present > 0
    return float((hits[there] / present[there]).mean())


def _f1_of_each(labels: Classes, predictions: Classes, num_classes: int) -> NDArray[np.float64]:
    """F1 (C,), the harmonic mean of precision and recall; 0 for a class that is neither there nor predicted."""
    hits, predicted, present = _counts(labels, predictions, num_classes)
    return np.asarray(2 * hits / np.maximum(predicted + present, 1), dtype=np.float64)


def _f1(labels: Classes, predictions: Classes, num_classes: int) -> float:
    """F1 of the second of two classes, label 1, as GLUE has it."""
    return float(_f1_of_each(labels, predictions, num_classes)[1])


def _macro_f1(labels: Classes, predictions: Classes, num_classes: int) -> float:
    """The mean of F1 over the classes that are there, as WILDS has it for iWildCam."""
    there = np.bincount(labels, minlength=num_classes) > 0
    return float(_f1_of_each(labels, predictions, num_classes)[there].mean())


def _matthews(labels: Classes, predictions: Classes, num_classes: int) -> float:
    """Matthews correlation, of several classes too (R_K); 0 where labels or predictions are all of one class."""
    hits, predicted, present = (counts.astype(np.float64) for counts in _counts(labels, predictions, num_classes))
    total = len(labels)
    spreads = (total**2 - predicted @ predicted) * (total**2 - present @ present)
    return float((hits.sum() * total - predicted @ present) / np.sqrt(spreads)) if spreads > 0 else 0.0


def _accuracy_and_f1(labels: Classes, predictions: Classes, num_classes: int) -> float:
    return (_accuracy(labels, predictions, num_classes) + _f1(labels, predictions, num_classes)) / 2


# By the name that `data.metric` gives. A new one is one file and one line, from outside of the package too.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(ACCURACY, "accuracy", _accuracy),
        Metric("balanced_accuracy", "balanced accuracy", _balanced_accuracy),
        Metric("f1", "F1", _f1, num_classes=2, instead="macro_f1"),
        Metric("macro_f1", "macro F1", _macro_f1),
        Metric("matthews", "Matthews correlation", _matthews),
        Metric("accuracy_and_f1", "mean of accuracy and F1", _accuracy_and_f1, num_classes=2, instead="macro_f1"),
    )
}


def deciding(name: str) -> Metric | None:
    """The metric ``name``; None for accuracy, which is measured in any case, and exactly decided before the end."""
    return None if name == ACCURACY else METRICS[name]
