"""What is left of a soup without its best ingredients (Tab. 3 of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from pipeline.config import Count, MethodName, Once, Section
from pipeline.records import Record, VariantRecord
from pipeline.studies.base import BuiltSoup, Study, StudyInputs
from pipeline.studies.variants import Variant, requests_of, rows_of


class EliminationSettings(Section):
    """What the best ingredients are worth, as in Tab. 3 of the MEHL-Soup paper."""

    methods: Annotated[list[MethodName], Once] = Field(["greedy", "mehl-plus"], min_length=1)
    """Methods to compare."""
    top: Annotated[list[Annotated[Count, Field(ge=1)]], Once] = Field([])
    """Numbers of best ingredients by validation accuracy to do without; none: no such study."""


def eliminations(inputs: StudyInputs) -> list[Variant]:
    """The soups without the ``top`` best ingredients by validation accuracy, and those of all, for each method.

    What would leave nothing is left out.
    """
    ranked = sorted(inputs.finished, key=lambda row: -(row.val_score or 0.0))
    settings: EliminationSettings = inputs.settings
    return [
        Variant(
            "elimination",
            method,
            "eliminated",
            count,
            count == 0,
            inputs.whole_sweep(method).of({row.trial_index for row in ranked[count:]}),
        )
        for method in (settings.methods if settings.top else ())
        for count in sorted({0, *settings.top})
        if count < len(ranked)
    ]


def _rows(inputs: StudyInputs, soups: Mapping[str, BuiltSoup]) -> Mapping[str, Sequence[Record]]:
    return {"elimination": rows_of(eliminations(inputs), soups)}


ELIMINATION = Study(
    tables={"elimination": VariantRecord},
    requests=lambda inputs: requests_of(eliminations(inputs)),
    rows=_rows,
    settings=EliminationSettings,
)
