"""How alike the ingredients are, before and after decentralisation (App. D of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.records import Record, SimilarityRecord
from pipeline.soup_requests import Request, RequestedIngredient, SimilarityRequest
from pipeline.studies.base import Study, StudyInputs

# The number of pairs grows with the square of the ingredients.
_MOST_INGREDIENTS = 100
_NAME = "similarity"


def _requests(inputs: StudyInputs) -> Mapping[str, Request]:
    """The first ingredients: all of them where they are not too many."""
    first = inputs.finished[:_MOST_INGREDIENTS]
    return {_NAME: SimilarityRequest(tuple(RequestedIngredient(row.trial_index, row.sha256) for row in first))}


def _rows(inputs: StudyInputs, answers: Mapping[str, list[SimilarityRecord]]) -> Mapping[str, Sequence[Record]]:
    return {_NAME: answers[_NAME]}


SIMILARITY = Study(tables={_NAME: SimilarityRecord}, requests=_requests, rows=_rows, needs="search")
