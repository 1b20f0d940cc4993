"""The figures of a run, each from its records; what a run has not recorded has no figure."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from html import escape
from itertools import groupby

from pipeline.records import (
    CostRecord,
    IngredientRecord,
    RunResults,
    SimilarityRecord,
    VariantRecord,
    cost_unit,
)
from pipeline.report.formats import augmentation, cost, count, percent, setting
from pipeline.report.intervals import interval, split_size
from pipeline.report.plot import HeatMap, LinePlot, Plot, Series
from pipeline.report.series import OrderBand, champion_of, cost_lines, learned_coefficients, order_bands, trials
from pipeline.report.styles import GREY, TEST_COLOUR, VALIDATION_COLOUR, MethodStyle, style

COST, NUMBER, INGREDIENTS = "cost_accuracy", "number_accuracy", "ingredients"
ELIMINATION, WISE_FT, WISE_FT_SHIFTS = "elimination", "wise_ft", "wise_ft_shifts"
COEFFICIENTS, COEFFICIENT_MAP, SIMILARITY = "coefficients", "coefficient_map", "similarity"

_TEST = "Test accuracy (%)"
_BINS = 60


def plots_of(results: RunResults) -> dict[str, Plot]:
    """All figures by name, in the order of the page."""
    found: list[Plot | None] = [
        _cost(results) if results.table("cost_accuracy", CostRecord) else None,
        _number(results) if results.table("cost_accuracy", CostRecord) else None,
        _elimination(results) if results.table("elimination", VariantRecord) else None,
        *(
            _ablation(results, method, name, rows)
            for method, name, rows in ablated(results.table("ablation", VariantRecord))
        ),
        _coefficients(results),
        _coefficient_map(results),
        _wise_ft(results) if results.table("wise_ft", VariantRecord) else None,
        _wise_ft_shifts(results),
        _similarity(results.table("similarity", SimilarityRecord))
        if results.table("similarity", SimilarityRecord)
        else None,
        _ingredients(results) if results.ingredients else None,
    ]
    return {plot.name: plot for plot in found if plot is not None}


def ablated(rows: Sequence[VariantRecord]) -> Iterator[tuple[str, str, list[VariantRecord]]]:
    """The ablations by method and setting, numbers in order."""
    for (method, name), part in groupby(rows, key=lambda row: (row.method, row.setting)):
        yield method, name, sorted(part, key=lambda row: _number_or_end(row.value))


def layerwise(results: RunResults) -> list[str]:
    """The methods with a coefficient per layer, the champion first."""
    learned = learned_coefficients(results)
    methods = [name for name, rows in learned.items() if len({row.layer for row in rows}) > 1]
    return sorted(methods, key=lambda name: name != results.run.champion)


def ablation_name(method: str, setting_name: str) -> str:
    """The name of the figure of an ablation, in letters, digits and underscores."""
    return re.sub(r"\W+", "_", f"ablation_{method}_{setting_name}")


def cost_series(costs: Sequence[CostRecord], unit: str) -> list[Series]:
    """Test accuracy against cost in search order, the number of ingredients beside each point, best line first."""
    found = []
    for line in cost_lines(costs):
        look = style(line.method)
        rows = [point.record for point in line.points]
        found.append(
            Series(
                *look,
                x=[row.gpu_hours for row in rows],
                y=[100 * row.test_accuracy for row in rows],
                numbers=[str(row.num_ingredients) for row in rows],
                sides=[point.label_side for point in line.points],
                hover=[
                    f"<b>{escape(look.label)}</b><br>{count(row.num_ingredients, 'ingredient')}"
                    f"<br>{cost(row.gpu_hours, unit)}<br>test {percent(row.test_accuracy)} %"
                    f"<br>validation {percent(row.val_accuracy)} %"
                    for row in rows
                ],
            )
        )
    return found


def _cost(results: RunResults) -> LinePlot:
    costs, unit = results.table("cost_accuracy", CostRecord), cost_unit(results.ingredients)
    series = [*cost_series(costs, unit), *_order_series(costs, lambda band: band.gpu_hours)]
    return LinePlot(
        COST,
        f"Test accuracy of each method against cost in {unit}",
        f"Cost so far ({unit})",
        _TEST,
        series,
        source="cost_accuracy.parquet",
    )


def _number(results: RunResults) -> LinePlot:
    """As `_cost`, with the number of ingredients for x."""
    costs, images = results.table("cost_accuracy", CostRecord), split_size(results.run, "test")
    series = []
    for line in cost_lines(costs):
        look, rows = style(line.method), [point.record for point in line.points]
        x = [row.num_ingredients for row in rows]
        series.append(_measured(look, x, [row.test_accuracy for row in rows], images))
    series += _order_series(costs, lambda band: band.num_ingredients)
    what = "Test accuracy of each method against the number of ingredients"
    return LinePlot(NUMBER, what, "Ingredients", _TEST, series, whole_x=True, source="cost_accuracy.parquet")


def _order_series(costs: Sequence[CostRecord], x: Callable[[OrderBand], float]) -> Iterator[Series]:
    """Mean and band over the random orders of each method."""
    for method in dict.fromkeys(row.method for row in costs):
        look, bands = style(method), order_bands(costs, method)
        if bands:
            yield Series(
                *look._replace(label=f"{look.label}, {count(bands[0].orders, 'random order')}"),
                x=[x(band) for band in bands],
                y=[100 * band.mean for band in bands],
                low=[100 * band.low for band in bands],
                high=[100 * band.high for band in bands],
                band=True,
                line="dash",
                points=False,
            )  # fmt: skip


def _elimination(results: RunResults) -> LinePlot:
    """Tab. 3 of the MEHL-Soup paper."""
    images = split_size(results.run, "test")
    series = []
    for method, rows in _by_method(results.table("elimination", VariantRecord)).items():
        look, x = style(method), [int(row.value) for row in rows]
        series.append(_measured(look, x, [row.test_accuracy for row in rows], images))
    what = "Test accuracy of each method without the best ingredients"
    return LinePlot(
        ELIMINATION, what, "Best ingredients eliminated", _TEST, series, whole_x=True, source="elimination.parquet"
    )


def _ablation(results: RunResults, method: str, name: str, rows: Sequence[VariantRecord]) -> LinePlot:
    """Fig. 3 and App. D of the MEHL-Soup paper."""
    look, images = style(method), split_size(results.run, "test")
    series = _measured(look, range(len(rows)), [row.test_accuracy for row in rows], images)
    if name == "seed" or any(_number_or_end(row.value) == math.inf for row in rows):
        series = replace(series, line=None)  # nothing lies between words
    return LinePlot(
        ablation_name(method, name),
        f"Test accuracy of {look.label} with other values of {name}",
        f"{name} of {look.label}",
        _TEST,
        [series],
        source="ablation.parquet",
        ticks=[f"{row.value} (run)" if row.is_default else row.value for row in rows],
    )


def _wise_ft(results: RunResults) -> LinePlot:
    """App. D of the model-soups paper."""
    images = split_size(results.run, "test")
    series = []
    for method, rows in _by_method(results.table("wise_ft", VariantRecord)).items():
        look, x = style(method), [float(row.value) for row in rows]
        series.append(_measured(look, x, [row.test_accuracy for row in rows], images, band=True))
    what = "Test accuracy between the starting point and each soup"
    return LinePlot(WISE_FT, what, "alpha (0: starting point, 1: soup)", _TEST, series, source="wise_ft.parquet")


def _wise_ft_shifts(results: RunResults) -> LinePlot | None:
    """Fig. D.1 of the model-soups paper: accuracy under shift against test accuracy, from theta0 to each soup."""
    if not any(row.shift_accuracies for row in results.table("wise_ft", VariantRecord)):
        return None
    series = []
    for method, rows in _by_method(results.table("wise_ft", VariantRecord)).items():
        look = style(method)
        series.append(
            Series(
                *look,
                x=[100 * row.test_accuracy for row in rows],
                y=[100 * statistics.mean(row.shift_accuracies.values()) for row in rows],
                hover=[f"<b>{escape(look.label)}</b><br>alpha {row.value}" for row in rows],
            )
        )  # fmt: skip
    what = "Mean accuracy on the shifts against test accuracy, from the starting point (alpha 0) to each soup (1)"
    return LinePlot(WISE_FT_SHIFTS, what, _TEST, "Mean accuracy on the shifts (%)", series, source="wise_ft.parquet")


def _coefficients(results: RunResults) -> LinePlot | None:
    """Fig. 1 of the MEHL-Soup paper: how the coefficients of all layers and ingredients are distributed."""
    values = {name: [row.coefficient for row in results.coefficients[name]] for name in layerwise(results)}
    if not values:
        return None
    low, high = min(map(min, values.values())), max(map(max, values.values()))
    width = (high - low) / _BINS or 1.0
    series = []
    for method, given in values.items():
        look, counts = style(method), [0] * _BINS
        for value in given:
            counts[min(int((value - low) / width), _BINS - 1)] += 1
        series.append(
            Series(
                *look,
                x=[low + width * (place + 0.5) for place in range(_BINS)],
                y=[100 * number / len(given) for number in counts],
                line="step",
                points=False,
            )
        )  # fmt: skip
    what = "Distribution of the mixing coefficients over all layers and ingredients"
    return LinePlot(
        COEFFICIENTS, what, "Mixing coefficient", "Share of coefficients (%)", series, source="coefficients/"
    )


def _coefficient_map(results: RunResults) -> HeatMap | None:
    methods = layerwise(results)
    if not methods:
        return None
    rows = results.coefficients[methods[0]]
    layers = list(dict.fromkeys(row.layer for row in rows))
    ingredients = list(dict.fromkeys(row.trial_index for row in rows))
    table = {(row.layer, row.trial_index): row.coefficient for row in rows}
    return HeatMap(
        COEFFICIENT_MAP,
        f"Mixing coefficients of {style(methods[0]).label} by layer and ingredient (white: those of the uniform soup)",
        "Ingredient",
        "Layer",
        "Coefficient",
        layers,
        [_ingredient_name(index) for index in ingredients],
        [[table[layer, index] for index in ingredients] for layer in layers],
        centre=1 / len(ingredients),
        source=f"coefficients/{methods[0]}.parquet",
    )


def _similarity(rows: Sequence[SimilarityRecord]) -> HeatMap:
    """Cosines between the directions from theta0, or from the mean where it is not known."""
    known = all(row.from_theta0 is not None for row in rows)
    indices = sorted({index for row in rows for index in (row.trial_index, row.other_index)})
    cosines = {}
    for row in rows:
        value = row.from_theta0 if known else row.from_mean
        cosines[row.trial_index, row.other_index] = cosines[row.other_index, row.trial_index] = value
    names = [_ingredient_name(index) for index in indices]
    origin = "the starting point" if known else "their mean"
    return HeatMap(
        SIMILARITY,
        f"Cosine between the directions in which two ingredients left {origin}",
        "Ingredient",
        "Ingredient",
        "Cosine",
        names,
        names,
        [[cosines.get((one, other)) for other in indices] for one in indices],
        source="similarity.parquet",
    )


def _ingredients(results: RunResults) -> LinePlot:
    """Every trial in search order; those without an ingredient are marked below all others."""
    rows, unit = trials(results.ingredients), cost_unit(results.ingredients)
    series = []
    for label, name, marker, symbol, colour in (
        ("Validation", "val_accuracy", "s", "square-open", VALIDATION_COLOUR),
        ("Test", "test_accuracy", "o", "circle", TEST_COLOUR),
    ):
        known = [row for row in rows.finished if getattr(row, name) is not None]
        accuracies = [getattr(row, name) for row in known]
        series.append(_trial_points(label, colour, marker, symbol, known, accuracies, unit))
    if rows.without:
        floor = [rows.floor] * len(rows.without)
        series.append(_trial_points("No ingredient", GREY, "x", "x-thin", rows.without, floor, unit))
    champion = champion_of(results.run, results.soups)
    if champion is not None:
        look, indices = style(champion.method), [row.trial_index for row in results.ingredients]
        ends = [min(indices) - 0.5, max(indices) + 0.5]
        level = [100 * champion.test_accuracy] * 2
        line = Series("Champion (test)", look.colour, "", "circle", ends, level, line="dash", points=False)
        series.append(line)
    what = "Validation and test accuracy of every trial in search order"
    return LinePlot(
        INGREDIENTS, what, "Trial, in search order", "Accuracy (%)", series, whole_x=True, source="ingredients.parquet"
    )


def _measured(
    look: MethodStyle,
    x: Sequence[float],
    accuracies: Sequence[float],
    images: int | None,
    *,
    band: bool = False,
) -> Series:
    """Test accuracies with their intervals, where the number of images is known."""
    intervals = [interval(accuracy, images) for accuracy in accuracies] if images else []
    return Series(
        *look,
        x=list(x),
        y=[100 * accuracy for accuracy in accuracies],
        low=[100 * low for low, _ in intervals],
        high=[100 * high for _, high in intervals],
        band=band,
    )  # fmt: skip


def _trial_points(
    label: str,
    colour: str,
    marker: str,
    symbol: str,
    rows: Sequence[IngredientRecord],
    accuracies: Sequence[float],
    unit: str,
) -> Series:
    return Series(
        label, colour, marker, symbol,
        x=[row.trial_index for row in rows],
        y=[100 * accuracy for accuracy in accuracies],
        line=None,
        hover=[_trial_hover(row, unit) for row in rows],
    )  # fmt: skip


def _trial_hover(row: IngredientRecord, unit: str) -> str:
    """What a trial came to, what it cost and its hyperparameters, in plotly's markup."""
    lines = [f"<b>Trial {row.trial_index}</b>, {row.status}"]
    if row.status == "finished":
        lines.append(f"validation {percent(row.val_accuracy)} %, test {percent(row.test_accuracy)} %")
    elif row.reason:
        lines.append(escape(row.reason if len(row.reason) <= 60 else f"{row.reason[:57]}..."))
    if row.device == "imported":
        return "<br>".join([*lines, cost(row.gpu_hours, unit), "imported"])
    return "<br>".join(
        [
            *lines,
            cost(row.gpu_hours, unit),
            f"lr {setting(row.lr)}, weight decay {setting(row.weight_decay)}",
            f"{count(row.epochs or 0, 'epoch')}, batch size {row.batch_size}",
            f"label smoothing {setting(row.label_smoothing)}, mixup {setting(row.mixup)}",
            f"{augmentation(row)}, seed {row.seed}",
        ]
    )


def _by_method(rows: Sequence[VariantRecord]) -> dict[str, list[VariantRecord]]:
    """The rows of each method, by the number that varies."""
    methods = dict.fromkeys(row.method for row in rows)
    return {
        method: sorted((row for row in rows if row.method == method), key=lambda row: float(row.value))
        for method in methods
    }


def _number_or_end(value: str) -> float:
    """For sorting: words keep their order behind the numbers."""
    try:
        return float(value)
    except ValueError:
        return math.inf


def _ingredient_name(trial_index: int) -> str:
    return "theta0" if trial_index < 0 else str(trial_index)
