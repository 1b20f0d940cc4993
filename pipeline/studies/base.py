"""What a study is: what it asks for, and the tables that it makes of the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from pipeline.config import Config, Known
from pipeline.metrics import deciding
from pipeline.records import (
    CoefficientRecord,
    IngredientRecord,
    PredictionRecord,
    Record,
    RunRecord,
    ShownExample,
    SimilarityRecord,
    SoupRecord,
    cumulative_gpu_hours,
)
from pipeline.soup_requests import Request, SoupRequest
from pipeline.studies.statistics import Predicted, Score


@dataclass(frozen=True)
class BuiltSoup:
    """A soup that was built, and the name that it is remembered by; ``predictions`` is a path in the run's folder."""

    name: str
    record: SoupRecord
    predictions: str


# Asks for the soup of a method over the trials with these indices, whose sweep cost so many hours.
RequestSoup: TypeAlias = Callable[[str, Sequence[int], float], SoupRequest]
# What a request came to: a soup, or the cosines of all pairs.
Answer: TypeAlias = BuiltSoup | list[SimilarityRecord]


@dataclass(frozen=True)
class StudyInputs:
    """What a study may look at: the records of a run with all its soups.

    ``settings`` are the study's own. ``request`` asks for a soup with the settings of the run. ``read_coefficients``
    reads those of a method's soup (None of an ensemble), ``read_predictions`` a table of predictions. ``show`` makes of
    the examples of `test` with these indices what people can look at; nothing where their kind of input shows none.
    """

    settings: Any
    run: RunRecord
    ingredients: Sequence[IngredientRecord]
    soups: Sequence[SoupRecord]
    request: RequestSoup
    read_coefficients: Callable[[str], Sequence[CoefficientRecord] | None]
    read_predictions: Callable[[str], Sequence[PredictionRecord]]
    show: Callable[[Sequence[int]], Sequence[ShownExample]] = lambda indices: ()

    @property
    def finished(self) -> list[IngredientRecord]:
        """The trials that gave an ingredient, in search order."""
        return finished_trials(self.ingredients)

    def whole_sweep(self, method: str) -> SoupRequest:
        """The soup of all finished trials, as the soup stage asks for it."""
        return whole_sweep(self.request, self.ingredients, method)

    def predicted(self, predictions: str, split: str = "test") -> Predicted:
        """What was predicted for the images of the split, by index."""
        return predicted_images(self.read_predictions(predictions), split)

    @property
    def score(self) -> Score | None:
        """What decides, as a function of labels and predictions; None: accuracy."""
        metric, num_classes = deciding(self.run.metric), len(self.run.class_names)
        return None if metric is None else lambda labels, predicted: metric.score(labels, predicted, num_classes)


def finished_trials(rows: Sequence[IngredientRecord]) -> list[IngredientRecord]:
    """The trials that gave an ingredient, in search order."""
    return [row for row in rows if row.is_ingredient]


def whole_sweep(request: RequestSoup, rows: Sequence[IngredientRecord], method: str) -> SoupRequest:
    """The soup of a method over all finished trials of ``rows``, at the cost of them all."""
    indices = [row.trial_index for row in finished_trials(rows)]
    return request(method, indices, cumulative_gpu_hours(rows, len(indices)))


def predicted_images(rows: Sequence[PredictionRecord], split: str = "test") -> Predicted:
    """What was predicted for the images of the split, by index."""
    images = sorted((row for row in rows if row.split == split), key=lambda row: row.image_index)
    labels, predictions = ([getattr(row, column) for row in images] for column in ("label", "prediction"))
    return Predicted(np.array(labels, dtype=np.int64), np.array(predictions, dtype=np.int64))


def _nothing(inputs: StudyInputs) -> Mapping[str, Request]:
    return {}


@dataclass(frozen=True)
class Study:
    """A question about a finished sweep; the line of `STUDIES` gives its name, the stage that answers it.

    ``tables`` are the kinds of its tables by name. ``requests`` says by name which soups it needs (none: those of the
    soup stage will do), ``rows`` makes of the answers the rows of every table. ``settings`` is the type of its section
    of the settings, `study.NAME`, and ``resolve`` completes that section (see `pipeline.config.HasSettings`). ``needs``
    is the stage whose results it is about. ``curve`` names a table of `CostRecord` that MLflow shows as curves.
    """

    tables: Mapping[str, type[Record]]
    rows: Callable[[StudyInputs, Mapping[str, Any]], Mapping[str, Sequence[Record]]]
    requests: Callable[[StudyInputs], Mapping[str, Request]] = _nothing
    settings: Any = None
    resolve: Callable[[Any, Config, Known], Any] | None = None
    needs: Literal["search", "soup"] = "soup"
    curve: str | None = None
