"""What the next hours bring: the curve of accuracy against cost (Fig. 2 of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

from pipeline.digits import apart, significant
from pipeline.records import CPU_CORE_HOURS, CostRatioRecord, CostRecord, RunRecord, RunResults, cost_unit, costs
from pipeline.report.cost_lines import CostLine, OrderBand, cost_lines, cost_series, order_bands
from pipeline.report.formats import MISSING, between, cost, count, gains, percent, spent, text_table
from pipeline.report.intervals import exact_size
from pipeline.report.markup import Column, chart, folded, paragraph, table
from pipeline.report.measured import ACCURACIES, accuracy_series, b_cell, b_heading, test_title
from pipeline.report.plot import LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.starting_point import LABEL, start_series
from pipeline.report.styles import style

_COST, _NUMBER = "cost_accuracy", "number_accuracy"
_BANDS = (
    " A dashed line is the mean over orders of the trials, of which search order is one; the area around it holds "
    "95 % of them."
)


def _plots(results: RunResults) -> list[Plot]:
    return [_against_number(results)] if results.table("cost_accuracy", CostRecord) else []


def against_cost(results: RunResults) -> list[Plot]:
    """The chart that the page begins with; none where no curve was followed."""
    costs_of, unit = results.table("cost_accuracy", CostRecord), cost_unit(results.ingredients)
    if not costs_of:
        return []
    lines = cost_series(costs_of, unit, results.run.labels)
    series = _from_above([*lines, *_order_series(results, lambda band: band.gpu_hours)])
    plot = LinePlot(
        _COST,
        f"Test {results.run.metric_label} of each method against cost in {unit}",
        f"Cost so far ({unit})",
        test_title(results.run),
        [*series, *start_series(results, unit)],
        source="cost_accuracy.parquet",
        from_zero=True,
    )
    return [plot]


def reading(results: RunResults) -> str:
    """How `against_cost` is read."""
    units = list(costs(results.ingredients))
    start = "" if results.run.theta0_score("test") is None else "; at 0 is the starting point"
    ordered = any(row.order_seed is not None for row in results.table("cost_accuracy", CostRecord))
    return (
        "Each point is a soup of the first trials of the sweep, in search order; the number beside it says how many. "
        f"Further right is dearer (all trials so far, failed ones too), higher is better{start}."
        f"{_BANDS if ordered else ''}{_two_units(units)}"
    )


def _against_number(results: RunResults) -> LinePlot:
    """As `against_cost`, with the number of ingredients for x."""
    costs, images = results.table("cost_accuracy", CostRecord), exact_size(results.run)
    series = []
    for line in cost_lines(costs):
        look, rows = style(line.method, results.run.labels), [point.record for point in line.points]
        x = [row.num_ingredients for row in rows]
        series.append(accuracy_series(look, x, [row.test_score for row in rows], images))
    series = _from_above([*series, *_order_series(results, lambda band: band.num_ingredients)])
    return LinePlot(
        _NUMBER,
        f"Test {results.run.metric_label} of each method against the number of ingredients",
        "Ingredients",
        test_title(results.run),
        [*series, *start_series(results, cost_unit(results.ingredients), bars=True)],
        whole_x=True,
        source="cost_accuracy.parquet",
        from_zero=True,
    )


def _from_above(series: Sequence[Series]) -> list[Series]:
    """As the lines end from above, so that the legend is in their order; equal ones as they come."""
    return sorted(series, key=lambda line: -line.y[-1])


def _order_series(results: RunResults, x: Callable[[OrderBand], float]) -> Iterator[Series]:
    """Mean and band over the orders of each method."""
    costs = results.table("cost_accuracy", CostRecord)
    for method in dict.fromkeys(row.method for row in costs):
        look, bands = style(method, results.run.labels), order_bands(costs, method)
        if bands:
            yield Series(
                *look._replace(label=f"{look.label}, mean of {count(bands[0].orders, 'order')}"),
                x=[x(band) for band in bands],
                y=[100 * band.mean for band in bands],
                low=[100 * band.low for band in bands],
                high=[100 * band.high for band in bands],
                band=True,
                line="dash",
                points=False,
            )  # fmt: skip


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    """What the last trials brought, the curve by number of ingredients, and folded what it is made of."""
    if not plots:
        how = "The cost curve has not been computed yet. Run the study stage of the same config: "
        command = "<code>python -m pipeline run --config CONFIG --stages study,report</code>"
        return f"<p>{escape(how)}{command}</p>"
    lines = cost_lines(results.table("cost_accuracy", CostRecord))
    bars = "Bars are 95 % intervals (Wilson's) for the size of the test set." if exact_size(results.run) else ""
    content = [
        chart(plots[_NUMBER]),
        paragraph(bars, "note") if bars else "",
        _last_steps(results.run, [line for line in lines if len(line.points) > 1]),
        _ratios(results.table("cost_ratios", CostRatioRecord), cost_unit(results.ingredients), results.run),
        folded("The points as a table", _points(results, lines)),
    ]
    return "".join(content)


def _last_steps(run: RunRecord, lines: Sequence[CostLine]) -> str:
    """What the last step of every curve brought; nothing of a single one, which the overview tells of (`worth`)."""
    if len(lines) < 2:
        return ""
    headings = ("Ingredients", "Select, pp", "95 % interval", "Test, pp", "95 % interval")
    says = (
        ["What select says of more trials"]
        if any(line.points[-1].record.select_gain_low is not None for line in lines)
        else []
    )
    columns = [Column("Method", False), *map(Column, headings), *(Column(heading, False) for heading in says)]
    rows = []
    for line in lines:
        (before, _), (after, _) = line.points[-2:]
        on_select = _gain_on_select(before, after)
        rows.append(
            (
                style(line.method, run.labels).label,
                f"{before.num_ingredients} to {after.num_ingredients}",
                *_cells(on_select, after.select_gain_low, after.select_gain_high),
                *_cells(after.test_score - before.test_score, after.gain_low, after.gain_high),
                *((on_select is not None and advice(after, on_select)) or MISSING for _ in says),
            )
        )
    return table("What the last trials changed", columns, rows, source="cost_accuracy.parquet")


def _cells(gain: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    """A gain and its interval in a table."""
    if gain is None:
        return MISSING, MISSING
    if low is None or high is None:
        return gains(gain)[0], MISSING
    text, *ends = gains(gain, low, high)
    return text, " to ".join(ends)


def _points(results: RunResults, lines: Sequence[CostLine]) -> str:
    """The curve in search order as a table."""
    images, costs_of = exact_size(results.run), results.table("cost_accuracy", CostRecord)
    units = list(costs(results.ingredients)) or [cost_unit(results.ingredients)]
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
    return table("The cost curve in search order", columns, rows, source="cost_accuracy.parquet, run.json")


def _two_units(units: Sequence[str]) -> str:
    """What the curve leaves out where some trials had a GPU and others none."""
    if len(units) < 2:
        return ""
    return f" What ran without a GPU cost {CPU_CORE_HOURS} besides, which are not in these; the table has both."


def _start(run: RunRecord, images: int | None, b: Sequence[str], units: Sequence[str]) -> tuple[str, ...]:
    """The row of the starting point: no ingredients, and no trials; its own cost is in no row."""
    test = run.theta0_score("test") or 0.0
    validation, select = (percent(run.theta0_score(split)) for split in ("val", "select"))
    beside = (*(MISSING for _ in b), *("0" for _ in units))
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
            *apart([row.gpu_hours, row.baseline_gpu_hours]),
            *times(row),
            str(row.orders),
        )
        for row in ratios
    ]
    return folded(
        "What equal test results cost by each pair of methods",
        table(
            f"What the second method costs in times of the first, for the highest test {run.metric_label} that both "
            "reach",
            columns,
            rows,
            source="cost_ratios.parquet",
        ),
        paragraph(
            f"The interval resamples test {run.examples} and, where there are several, orders of the trials.", "note"
        ),
    )


def times(ratio: CostRatioRecord) -> tuple[str, str]:
    """How many times as much, and the interval of that: ``2.5``, ``1 to 4``; told apart from as much, which is 1."""
    estimate, low, high, _ = apart([ratio.ratio, ratio.low, ratio.high, 1.0])
    return estimate, f"{low} to {high}"


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
    on_test = after.test_score - before.test_score
    each = ""
    if on_test > 0 and not beside:
        price = hours / (100 * on_test)
        money = "" if run.price_per_gpu_hour is None else f", {significant(price * run.price_per_gpu_hour)} in money"
        each = f", {cost(price, unit)} for each percentage point{money}"
    test = f"{_told(on_test, after.gain_low, after.gain_high)}{each}"
    on_select = _gain_on_select(before, after)
    if on_select is None:
        return (
            f"{text}test {run.metric_label} of {label} by {test}. Without a select split nothing can tell whether more "
            "trials would pay off."
        )
    said = _told(on_select, after.select_gain_low, after.select_gain_high)
    verdict = advice(after, on_select)
    return (
        f"{text}select {run.metric_label} of {label} by {said}.{verdict and f' {verdict}.'} "
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
    on_select = None if before is None else _gain_on_select(before, point)
    if before is None or on_select is None:
        return text
    said = advice(point, on_select)
    gained = _told(on_select, point.select_gain_low, point.select_gain_high)
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


def _gain_on_select(before: CostRecord, after: CostRecord) -> float | None:
    """What a point has on `select` over the one before; None where there is no such split."""
    if before.select_score is None or after.select_score is None:
        return None
    return after.select_score - before.select_score


def _told(gain: float, low: float | None, high: float | None) -> str:
    """A gain in a sentence: ``+1.61 pp (95 % interval -0.20 to +3.42)``; without the interval where it is not known."""
    text, interval = _cells(gain, low, high)
    return f"{text} pp" if interval == MISSING else f"{text} pp (95 % interval {interval})"


SECTION = Section(
    "Cost against {metric}",
    _body,
    _plots,
    anchor="cost",
)
