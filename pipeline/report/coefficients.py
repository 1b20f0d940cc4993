"""The mixing coefficients of the soups (Fig. 1 of the MEHL-Soup paper)."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pipeline.records import CoefficientRecord, RunResults
from pipeline.report.formats import ingredient_name, percent
from pipeline.report.markup import Column, chart, paragraph, table
from pipeline.report.plot import HeatMap, LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.styles import style

_BINS = 60


def _learned_coefficients(results: RunResults) -> dict[str, list[CoefficientRecord]]:
    """By method the coefficients of the soups that do not simply average some ingredients."""
    return {
        method: rows
        for method, rows in results.coefficients.items()
        if len({row.coefficient for row in rows if row.coefficient != 0}) > 1
    }


def _layerwise(results: RunResults) -> list[str]:
    """The methods with a coefficient per layer, the champion first."""
    learned = _learned_coefficients(results)
    methods = [name for name, rows in learned.items() if len({row.layer for row in rows}) > 1]
    return sorted(methods, key=lambda name: name != results.run.champion)


def _plots(results: RunResults) -> list[Plot]:
    return [_distribution(results), _map(results)] if _layerwise(results) else []


def _distribution(results: RunResults) -> LinePlot:
    """Fig. 1: how the coefficients of all layers and ingredients are distributed."""
    values = {name: [row.coefficient for row in results.coefficients[name]] for name in _layerwise(results)}
    low, high = min(map(min, values.values())), max(map(max, values.values()))
    width = (high - low) / _BINS or 1.0
    series = []
    for method, coefficients in values.items():
        look, counts = style(method, results.run.labels), [0] * _BINS
        for value in coefficients:
            counts[min(int((value - low) / width), _BINS - 1)] += 1
        series.append(
            Series(
                *look,
                # An empty bin on either side: no bar is cut off.
                x=[low + width * (index + 0.5) for index in range(-1, _BINS + 1)],
                y=[100 * number / len(coefficients) for number in (0, *counts, 0)],
                line="step",
                points=False,
            )
        )  # fmt: skip
    what = "Distribution of the mixing coefficients over all layers and ingredients"
    return LinePlot(
        "coefficients", what, "Mixing coefficient", "Share of coefficients (%)", series, source="coefficients/"
    )


def _map(results: RunResults) -> HeatMap:
    """By layer and ingredient, those of the champion, or of the first method that has some by layer."""
    method = _layerwise(results)[0]
    rows = results.coefficients[method]
    layers = list(dict.fromkeys(row.layer for row in rows))
    ingredients = list(dict.fromkeys(row.trial_index for row in rows))
    by_place = {(row.layer, row.trial_index): row.coefficient for row in rows}
    label = style(method, results.run.labels).label
    return HeatMap(
        "coefficient_map",
        f"Mixing coefficients of {label} by layer and ingredient (white: those of the uniform soup)",
        "Ingredient",
        "Layer",
        "Coefficient",
        layers,
        [ingredient_name(index) for index in ingredients],
        [[by_place[layer, index] for index in ingredients] for layer in layers],
        centre=1 / len(ingredients),
        source=f"coefficients/{method}.parquet",
    )


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    learned = _learned_coefficients(results)
    if not learned:
        return ""
    columns = [Column("Method", False), *map(Column, ("Layers", "Smallest", "Largest", "Spread", "Outside 0 to 1"))]
    rows = [(style(method, results.run.labels).label, *_spread(rows)) for method, rows in learned.items()]
    content = [
        paragraph(
            "Within a layer the coefficients of all ingredients sum to one; where a method mixes in the starting "
            "point, that has the rest. Outside 0 to 1 a soup extrapolates: it goes away from an ingredient. The spread "
            "is the standard deviation."
        ),
        table("Mixing coefficients by method", columns, rows, source="coefficients/METHOD.parquet"),
        *map(chart, plots.values()),
    ]
    return "".join(content)


def _spread(rows: Sequence[CoefficientRecord]) -> tuple[str, ...]:
    values = [row.coefficient for row in rows]
    outside = sum(not 0 <= value <= 1 for value in values)
    return (
        str(len({row.layer for row in rows})),
        f"{min(values):.4f}",
        f"{max(values):.4f}",
        f"{statistics.pstdev(values):.4f}",
        f"{percent(outside / len(values))} %",
    )


SECTION = Section("Mixing coefficients", _body, _plots)
