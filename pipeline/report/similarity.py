"""How alike the ingredients are: cosines between pairs of them (App. D of the MEHL-Soup paper)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pipeline.records import RunResults, SimilarityRecord
from pipeline.report.formats import count, ingredient_name
from pipeline.report.markup import chart, paragraph
from pipeline.report.plot import HeatMap, Plot
from pipeline.report.section import Section

_NAME = "similarity"


def _plots(results: RunResults) -> list[Plot]:
    rows = results.table(_NAME, SimilarityRecord)
    return [_map(rows)] if rows else []


def _map(rows: Sequence[SimilarityRecord]) -> HeatMap:
    """Cosines between the directions from theta0, or from the mean where it is not known."""
    known = all(row.from_theta0 is not None for row in rows)
    indices = sorted({index for row in rows for index in (row.trial_index, row.other_index)})
    cosines = {}
    for row in rows:
        value = row.from_theta0 if known else row.from_mean
        cosines[row.trial_index, row.other_index] = cosines[row.other_index, row.trial_index] = value
    names = [ingredient_name(index) for index in indices]
    origin = "the starting point" if known else "their mean"
    return HeatMap(
        _NAME,
        f"Cosine between the directions in which two ingredients left {origin}",
        "Ingredient",
        "Ingredient",
        "Cosine",
        names,
        names,
        [[cosines.get((one, other)) for other in indices] for one in indices],
        source="similarity.parquet",
    )


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    rows = results.table(_NAME, SimilarityRecord)
    if not rows:
        return ""
    measured = len({index for row in rows for index in (row.trial_index, row.other_index)})
    finished = sum(row.is_ingredient for row in results.ingredients)
    which = "" if measured == finished else f" (the first {measured} of {finished})"
    means = [
        ("weights", statistics.mean(row.weights for row in rows)),
        ("directions from their mean (decentralized)", statistics.mean(row.from_mean for row in rows)),
    ]
    known = [row.from_theta0 for row in rows if row.from_theta0 is not None]
    if known:
        means.append(("directions from the starting point", statistics.mean(known)))
    values = ", ".join(f"{value:.4f} between {name}" for name, value in means)
    text = f"Mean cosine of {count(len(rows), 'pair')} of ingredients{which}: {values} (similarity.parquet)."
    return paragraph(text) + chart(plots[_NAME])


SECTION = Section("How alike the ingredients are", _body, _plots)
