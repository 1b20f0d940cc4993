"""What the next hours bring: the curve of accuracy against cost (Fig. 2 of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from pipeline.records import CPU_CORE_HOURS, CostRatioRecord, CostRecord, RunRecord, RunResults, cost_unit, costs
from pipeline.report.cost_lines import CostLine, OrderBand, cost_lines, cost_series, order_bands
from pipeline.report.formats import MISSING, between, cost, count, percent, significant, spent, text_table
from pipeline.report.intervals import exact_size
from pipeline.report.markup import Column, chart, paragraph, table
from pipeline.report.measured import ACCURACIES, accuracy_series, b_cell, b_heading, test_title
from pipeline.report.plot import LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.starting_point import LABEL, own_cost, start_series
from pipeline.report.styles import style

_COST, _NUMBER = "cost_accuracy", "number_accuracy"
_BARS = "Bars are 95 % intervals (Wilson's) for the size of the test set. "
_BANDS = (
    "Dashed lines, where there are any, are means "
    "over random orders of the trials, and the area around them holds 95 % of these orders."
)


def _plots(results: RunResults) -> list[Plot]:
    return [_against_cost(results), _against_number(results)] if results.table("cost_accuracy", CostRecord) else []


def _against_cost(results: RunResults) -> LinePlot:
    costs, unit = results.table("cost_accuracy", CostRecord), cost_unit(results.ingredients)
    series = [*cost_series(costs, unit, results.run.labels), *_order_series(results, lambda band: band.gpu_hours)]
    series += start_series(results, unit)
    return LinePlot(
        _COST,
        f"Test {results.run.metric_label} of each method against cost in {unit}",
        f"Cost so far ({unit})",
        test_title(results.run),
        series,
        source="cost_accuracy.parquet",
    )


def _against_number(results: RunResults) -> LinePlot:
    """As `_against_cost`, with the number of ingredients for x."""
    costs, images = results.table("cost_accuracy", CostRecord), exact_size(results.run)
    series = []
    for line in cost_lines(costs):
        look, rows = style(line.method, results.run.labels), [point.record for point in line.points]
        x = [row.num_ingredients for row in rows]
        series.append(accuracy_series(look, x, [row.test_score for row in rows], images))
    series += _order_series(results, lambda band: band.num_ingredients)
    series += start_series(results, cost_unit(results.ingredients), bars=True)
    what = f"Test {results.run.metric_label} of each method against the number of ingredients"
    y_title = test_title(results.run)
    return LinePlot(_NUMBER, what, "Ingredients", y_title, series, whole_x=True, source="cost_accuracy.parquet")


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
    unit, images = cost_unit(results.ingredients), exact_size(results.run)
    costs_of = results.table("cost_accuracy", CostRecord)
    lines = cost_lines(costs_of)
    units = list(costs(results.ingredients)) or [unit]
    b = b_heading(costs_of)
    columns = [Column("Method", False), *map(Column, ("Ingredients", *b, *units, *ACCURACIES))]
    rows = [_start(results.run, images, b, units)] if results.run.theta0_score("test") is not None else []
    rows += [
        (
            style(line.method, results.run.labels).label,
            str(row.num_ingredients),
            *b_cell(row, costs_of),
            significant(row.gpu_hours),
            *(significant(row.cpu_core_hours or 0.0) for _ in units[1:]),
            percent(row.val_score),
            percent(row.select_score),
            percent(row.test_score),
            between(row.test_score, images),
        )
        for line in lines
        for row, _ in line.points
    ]
    points = table("The cost curve in search order", columns, rows, source="cost_accuracy.parquet, run.json")
    content = [
        paragraph(
            "Each point is a model made from the first trials of the sweep, in search order; the number beside it says "
            f"how many. Further right is dearer (all trials so far, failed ones too, in {unit}), higher is better. "
            f"At 0 is the model that all trials started from, whose own cost is in no point.{_two_units(units)}"
        ),
        chart(plots[_COST]),
        *(paragraph(text) for line in lines if (text := worth(results.run, line, unit))),
        _ratios(results.table("cost_ratios", CostRatioRecord), unit, results.run),
        chart(plots[_NUMBER]),
        paragraph((_BARS if images else "") + _BANDS, "note"),
        f"<details><summary>The points as a table</summary>{points}</details>",
    ]
    return "".join(content)


def _two_units(units: Sequence[str]) -> str:
    """What the curve leaves out where some trials had a GPU and others none."""
    if len(units) < 2:
        return ""
    return f" What ran without a GPU cost {CPU_CORE_HOURS} besides, which are not in these; the table has both."


def _start(run: RunRecord, images: int | None, b: Sequence[str], units: Sequence[str]) -> tuple[str, ...]:
    """The row of the starting point: no ingredients; its own cost stands beside, in no other row."""
    test = run.theta0_score("test") or 0.0
    price = f"0{own_cost(run, units[0])}"
    validation, select = (percent(run.theta0_score(split)) for split in ("val", "select"))
    beside = (*(MISSING for _ in b), price, *("0" for _ in units[1:]))
    return LABEL, "0", *beside, validation, select, percent(test), between(test, images)


def _ratios(ratios: Sequence[CostRatioRecord], unit: str, run: RunRecord) -> str:
    """What each pair of methods costs at equal accuracy."""
    if not ratios:
        return ""
    headings = ("Test %", f"{unit} of the first", f"{unit} of the second", "Times the cost", "95 % interval", "Orders")
    columns = [Column("Methods", False), *map(Column, headings)]
    rows = [
        (
            f"{style(row.method, run.labels).label}, {style(row.baseline, run.labels).label}",
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
        f"What the second method costs in times of the first, for the highest test {run.metric_label} that both reach",
        columns,
        rows,
        source="cost_ratios.parquet",
    ) + paragraph(
        f"The interval resamples test {run.examples} and, where there are several, orders of the trials.", "note"
    )


def worth(run: RunRecord, line: CostLine, unit: str) -> str:
    """What the last step of a cost curve brought, in words; nothing where there is only one point.

    `select` alone decides what is advised: a test split that decides is used. What `test` says stands beside it.
    """
    if len(line.points) < 2:
        return ""
    (before, _), (after, _) = line.points[-2:]
    hours = after.gpu_hours - before.gpu_hours
    beside = (after.cpu_core_hours or 0.0) - (before.cpu_core_hours or 0.0)
    paid = spent({unit: hours, **({CPU_CORE_HOURS: beside} if beside else {})})
    label = style(line.method, run.labels).label
    text = (
        f"The last {paid}, from {before.num_ingredients} to {count(after.num_ingredients, 'ingredient')}, changed the "
    )
    on_test = 100 * (after.test_score - before.test_score)
    each = ""
    if on_test > 0 and not beside:
        price = hours / on_test
        money = "" if run.price_per_gpu_hour is None else f", {significant(price * run.price_per_gpu_hour)} in money"
        each = f", {cost(price, unit)} for each percentage point{money}"
    test = f"{on_test:+.2f} pp{_interval(after.gain_low, after.gain_high)}{each}"
    if before.select_score is None or after.select_score is None:
        return (
            f"{text}test {run.metric_label} of {label} by {test}. Without a select split nothing can tell whether more "
            "trials would pay off."
        )
    on_select = 100 * (after.select_score - before.select_score)
    interval = _interval(after.select_gain_low, after.select_gain_high)
    verdict = advice(after, on_select)
    return (
        f"{text}select {run.metric_label} of {label} by {on_select:+.2f} pp{interval}.{verdict and f' {verdict}.'} "
        f"The test {run.metric_label}, which decides nothing, changed by {test}."
    )


def advice(point: CostRecord, on_select: float) -> str:
    """What the gain of a point ``on_select`` over the one before says of more trials; nothing without its interval."""
    if point.select_gain_low is None:
        return ""  # an older table
    if point.select_gain_low > 0:
        return "More trials may still pay off"
    return (
        "That does not tell whether more trials would pay off" if on_select > 0 else "That is no reason for more trials"
    )


def point_line(run: RunRecord, points: Sequence[CostRecord], unit: str) -> str:
    """The last of ``points``, those so far of a method, in a line, with what it says of more trials."""
    *_, before, point = (None, *points)
    label, size = style(point.method, run.labels).label, count(point.num_ingredients, "ingredient")
    text = f"{label} of {size} after {cost(point.gpu_hours, unit)}: "
    if point.select_score is None:
        return f"{text}validation {run.metric_label} {percent(point.val_score)} %"
    text += f"select {run.metric_label} {percent(point.select_score)} %"
    if before is None or before.select_score is None:
        return text
    on_select = 100 * (point.select_score - before.select_score)
    said = advice(point, on_select)
    gained = f"{on_select:+.2f} pp{_interval(point.select_gain_low, point.select_gain_high)}"
    return f"{text}, {gained} since {before.num_ingredients}{said and f'. {said}'}"


def points_table(points: Sequence[CostRecord], unit: str) -> str:
    """The points so far as a plain-text table, scores in per cent."""
    rows = [
        (
            point.method,
            str(point.num_ingredients),
            f"{point.gpu_hours:.3g}",
            percent(point.select_score),
            percent(point.test_score),
        )
        for point in points
    ]
    return text_table(("method", "ingredients", unit, "select %", "test %"), rows)


def _interval(low: float | None, high: float | None) -> str:
    """The 95 % interval of a change, in brackets; nothing where it is not known."""
    return "" if low is None or high is None else f" (95 % interval {100 * low:+.2f} to {100 * high:+.2f})"


SECTION = Section(
    "Cost against {metric}",
    _body,
    _plots,
    anchor="cost",
)
