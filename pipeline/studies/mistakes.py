"""What the champion and the best trial take for what, and examples that one of them gets right and the other wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config import Count, Section
from pipeline.records import ConfusionRecord, ExampleRecord, Record
from pipeline.records.folder import predictions_path
from pipeline.studies.base import Study, StudyInputs
from pipeline.studies.statistics import Predicted

_BEST = "best-individual"


class MistakesSettings(Section):
    """What the champion and the best trial get wrong, on `test`."""

    examples: Count = Field(8, ge=0, le=8)
    """How many examples that one of them alone gets right, and as many that the other does, are recorded, small, and
    stand in the report; 0: no image and no text of the data is in either."""


def confusions(method: str, model: Predicted, num_classes: int) -> list[ConfusionRecord]:
    """How often each class was taken for which; pairs that never occurred are left out."""
    pairs, counts = np.unique(model.labels * num_classes + model.predictions, return_counts=True)
    return [
        ConfusionRecord(method=method, label=pair // num_classes, prediction=pair % num_classes, images=images)
        for pair, images in zip(pairs.tolist(), counts.tolist(), strict=True)
    ]


def _rows(inputs: StudyInputs, answers: Mapping[str, Any]) -> Mapping[str, Sequence[Record]]:
    built = {soup.method for soup in inputs.soups}
    models = {
        method: inputs.predicted(predictions_path(method))
        for method in dict.fromkeys((inputs.run.champion, _BEST))
        if method is not None and method in built
    }
    num_classes = len(inputs.run.class_names)
    return {
        "confusions": [row for name, model in models.items() for row in confusions(name, model, num_classes)],
        "examples": list(_examples(inputs, *models.items())) if len(models) == 2 and inputs.settings.examples else [],
    }


def _examples(inputs: StudyInputs, one: tuple[str, Predicted], other: tuple[str, Predicted]) -> Iterator[ExampleRecord]:
    """First those that ``one`` alone got right, then those of the ``other``."""
    (method, model), (baseline, second) = one, other
    most, pairs = inputs.settings.examples, ((model, second), (second, model))
    won, lost = (_some(np.flatnonzero(right.correct & ~wrong.correct), most) for right, wrong in pairs)
    indices = [*won, *lost]
    for index, shown in zip(indices, inputs.show(indices), strict=False):  # a kind of input may show none
        yield ExampleRecord(
            method=method,
            baseline=baseline,
            image_index=index,
            label=int(model.labels[index]),
            prediction=int(model.predictions[index]),
            baseline_prediction=int(second.predictions[index]),
            media_type=shown.media_type,
            content=shown.content,
        )


def _some(indices: NDArray[np.int64], most: int) -> list[int]:
    """At most ``most`` of ``indices``, evenly spread over them: a test set may be in the order of its classes."""
    places = np.linspace(0, len(indices) - 1, min(len(indices), most)).round().astype(np.int64)
    return [int(index) for index in indices[places]]


MISTAKES = Study(
    tables={"confusions": ConfusionRecord, "examples": ExampleRecord}, rows=_rows, settings=MistakesSettings
)
