"""What the next hours bring: the curve of accuracy against cost (Fig. 2 of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from pipeline.records import CostRatioRecord, CostRecord, RunRecord, RunResults, cost_unit
from pipeline.report.cost_lines import CostLine, OrderBand, cost_lines, cost_series, order_bands
from pipeline.report.formats import between, cost, count, percent, significant
from pipeline.report.intervals import split_size
from pipeline.report.markup import Column, chart, paragraph, table
from pipeline.report.measured import ACCURACIES, TEST, accuracy_series
from pipeline.report.plot import LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.styles import style

_COST, _NUMBER = "cost_accuracy", "number_accuracy"
_BANDS = (
    "Bars are 95 % intervals (Wilson's) for the number of test images. Dashed lines, where there are any, are means "
    "over random orders of the trials, and the area around them holds 95 % of these orders."
)


def _plots(results: RunResults) -> list[Plot]:
    return [_against_cost(results), _against_number(results)] if results.table("cost_accuracy", CostRecord) else []


def _against_cost(results: RunResults) -> LinePlot:
    costs, unit = results.table("cost_accuracy", CostRecord), cost_unit(results.ingredients)
    series = [*cost_series(costs, unit, results.run.labels), *_order_series(results, lambda band: band.gpu_hours)]
    return LinePlot(
        _COST,
        f"Test accuracy of each method against cost in {unit}",
        f"Cost so far ({unit})",
        TEST,
        series,
        source="cost_accuracy.parquet",
    )


def _against_number(results: RunResults) -> LinePlot:
    """As `_against_cost`, with the number of ingredients for x."""
    costs, images = results.table("cost_accuracy", CostRecord), split_size(results.run, "test")
    series = []
    for line in cost_lines(costs):
        look, rows = style(line.method, results.run.labels), [point.record for point in line.points]
        x = [row.num_ingredients for row in rows]
        series.append(accuracy_series(look, x, [row.test_accuracy for row in rows], images))
    series += _order_series(results, lambda band: band.num_ingredients)
    what = "Test accuracy of each method against the number of ingredients"
    return LinePlot(_NUMBER, what, "Ingredients", TEST, series, whole_x=True, source="cost_accuracy.parquet")


def _order_series(results: RunResults, x: Callable[[OrderBand], float]) -> Iterator[Series]:
    """Mean and band over the random orders of each method."""
    costs = results.table("cost_accuracy", CostRecord)
    for method in dict.fromkeys(row.method for row in costs):
        look, bands = style(method, results.run.labels), order_bands(costs, method)
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


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    """The cost curve, what equal accuracy costs by each method, and the points as a table."""
    if not plots:
        how = "The cost curve has not been computed yet. Run the study stage of the same config: "
        command = "<code>python -m pipeline run --config CONFIG --stages study,report</code>"
        return f"<p>{escape(how)}{command}</p>"
    unit, images = cost_unit(results.ingredients), split_size(results.run, "test")
    lines = cost_lines(results.table("cost_accuracy", CostRecord))
    columns = [Column("Method", False), *map(Column, ("Ingredients", unit, *ACCURACIES))]
    rows = [
        (
            style(line.method, results.run.labels).label,
            str(row.num_ingredients),
            significant(row.gpu_hours),
            percent(row.val_accuracy),
            percent(row.select_accuracy),
            percent(row.test_accuracy),
            between(row.test_accuracy, images),
        )
        for line in lines
        for row, _ in line.points
    ]
    points = table("The cost curve in search order", columns, rows, source="cost_accuracy.parquet")
    content = [
        paragraph(
            "Each point is a model made from the first trials of the sweep, in search order; the number beside it says "
            f"how many. Further right is dearer (all trials so far, failed ones too, in {unit}), higher is better."
        ),
        chart(plots[_COST]),
        *(paragraph(text) for line in lines if (text := worth(results.run, line, unit))),
        _ratios(results.table("cost_ratios", CostRatioRecord), unit, results.run.labels),
        chart(plots[_NUMBER]),
        paragraph(_BANDS, "note"),
        f"<details><summary>The points as a table</summary>{points}</details>",
    ]
    return "".join(content)


def _ratios(ratios: Sequence[CostRatioRecord], unit: str, labels: Mapping[str, str]) -> str:
    """What each pair of methods costs at equal accuracy."""
    if not ratios:
        return ""
    headings = ("Test %", f"{unit} of the first", f"{unit} of the second", "Times the cost", "95 % interval", "Orders")
    columns = [Column("Methods", False), *map(Column, headings)]
    rows = [
        (
            f"{style(row.method, labels).label}, {style(row.baseline, labels).label}",
            percent(row.accuracy),
            significant(row.gpu_hours),
            significant(row.baseline_gpu_hours),
            significant(row.ratio),
            f"{significant(row.low)} to {significant(row.high)}",
            str(row.orders),
        )
        for row in ratios
    ]
    return table(
        "What the second method costs in times of the first, for the highest test accuracy that both reach",
        columns,
        rows,
        source="cost_ratios.parquet",
    ) + paragraph("The interval resamples test images and, where there are several, orders of the trials.", "note")


def worth(run: RunRecord, line: CostLine, unit: str) -> str:
    """What the last step of a cost curve brought, in words; nothing where there is only one point."""
    if len(line.points) < 2:
        return ""
    (before, _), (after, _) = line.points[-2:]
    points, hours = 100 * (after.test_accuracy - before.test_accuracy), after.gpu_hours - before.gpu_hours
    text = (
        f"The last {cost(hours, unit)}, from {before.num_ingredients} to {count(after.num_ingredients, 'ingredient')}, "
        f"changed the test accuracy of {style(line.method, run.labels).label} by {points:+.2f} pp"
    )
    if points > 0:
        each = hours / points
        price = "" if run.price_per_gpu_hour is None else f", {significant(each * run.price_per_gpu_hour)} in money"
        text += f": {cost(each, unit)} for each percentage point{price}"
    if after.gain_low is None or after.gain_high is None:
        return f"{text}."
    if after.gain_low > 0:
        verdict = "More trials may still pay off."
    elif points > 0:
        verdict = "That does not tell whether more trials would pay off."
    else:
        verdict = "That is no reason for more trials."
    interval = f"{100 * after.gain_low:+.2f} to {100 * after.gain_high:+.2f} pp"
    return f"{text}. The 95 % interval of that change is {interval}. {verdict}"


SECTION = Section(
    "Cost against accuracy",
    _body,
    _plots,
    anchor="cost",
)
