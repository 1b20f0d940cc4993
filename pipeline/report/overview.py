"""The first thing to read: which model to take, what it gained, what it cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.digits import apart, significant
from pipeline.metrics import ACCURACY
from pipeline.records import (
    ComparisonRecord,
    CostRatioRecord,
    CostRecord,
    IngredientRecord,
    RunRecord,
    RunResults,
    SoupRecord,
    cost_by_device,
    cost_unit,
    costs,
)
from pipeline.report.comparisons import SIGNIFICANT, against, gain_and_interval, p_values
from pipeline.report.cost_accuracy import against_cost, reading, times, worth
from pipeline.report.cost_lines import cost_lines
from pipeline.report.formats import between, cost, count, duration, gains, percent, percents, spent
from pipeline.report.intervals import split_size
from pipeline.report.markup import chart, facts, paragraph
from pipeline.report.methods import RENEWED, champion_of
from pipeline.report.plot import Plot
from pipeline.report.section import Section
from pipeline.report.starting_point import below_start, own_unit
from pipeline.report.styles import style

_BASELINE = "best-individual"


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    run, ingredients, soups = results.run, results.ingredients, results.soups
    champion = champion_of(run, soups)
    baseline = _best_trial(soups)
    curve = "".join([*map(chart, plots.values()), paragraph(reading(results), "note")]) if plots else ""
    if champion is None:
        text = "There is no champion yet: run the soup stage (--stages soup) to mix the ingredients into one model."
        return paragraph(text, "lead") + curve + paragraph(_spent(run, ingredients, None))
    tested = against(results.table("comparisons", ComparisonRecord), champion.method, _BASELINE)
    content = [
        facts(_tiles(run, champion, baseline, tested, ingredients), "tiles"),
        curve,
        paragraph(_verdict(results, champion), "lead"),
        paragraph(_below(run, champion)) if below_start(run, champion) else "",
        paragraph(_gain(run, champion, baseline, tested) + _renewed(run, champion, baseline, soups))
        if baseline
        else "",
        paragraph(_spent(run, ingredients, champion)),
        *map(paragraph, _worth(results, champion)),
    ]
    return "".join(content)


def _best_trial(soups: Sequence[SoupRecord]) -> SoupRecord | None:
    """The best individual trial, which gains are over; None where it is not among the methods."""
    return next((soup for soup in soups if soup.method == _BASELINE), None)


def headline(results: RunResults) -> str:
    """The result of a run in a sentence, for where there is room for one."""
    run, soups = results.run, results.soups
    champion, total = champion_of(run, soups), spent(costs(results.ingredients))
    if champion is None:
        return f"No champion yet; the trials cost {total}."
    baseline = _best_trial(soups)
    name = style(champion.method, run.labels).label
    text = f"{name} is the champion, {_on_test(champion, baseline)} % test {run.metric_label}"
    if baseline is not None and baseline.method != champion.method:
        tested = against(results.table("comparisons", ComparisonRecord), champion.method, _BASELINE)
        interval = "" if tested is None else f" (95 %: {gain_and_interval(tested)[1]})"
        text += f", {_gain_of(champion, baseline)} points over the best trial{interval}"
    return f"{text}. The trials cost {total}."


def _worth(results: RunResults, champion: SoupRecord) -> Iterator[str]:
    """What the same accuracy costs by another method, and whether more trials are worth their cost."""
    unit = cost_unit(results.ingredients)
    if ratio := _headline(results.table("cost_ratios", CostRatioRecord), champion.method):
        yield _equal_accuracy(results.run, ratio, unit)
    lines = cost_lines(results.table("cost_accuracy", CostRecord))
    # Where the champion was not followed, the line that `select` puts first: this leads to advice.
    best = max(lines, key=lambda line: line.points[-1].record.select_score or 0.0, default=None)
    followed = next((line for line in lines if line.method == champion.method), best)
    if followed is not None and (text := worth(results.run, followed, unit)):
        yield text


def _headline(ratios: Sequence[CostRatioRecord], champion: str) -> CostRatioRecord | None:
    """The champion against greedy, where both were followed; else any pair with greedy, else the first."""
    wanted = ({champion, "greedy"}, {"greedy"}, set[str]())
    return next((row for pair in wanted for row in ratios if pair <= {row.method, row.baseline}), None)


def _equal_accuracy(run: RunRecord, ratio: CostRatioRecord, unit: str) -> str:
    """What two methods cost for the same accuracy, in search order and over all orders."""
    method, baseline = (style(name, run.labels).label for name in (ratio.method, ratio.baseline))
    hours, baseline_hours = apart([ratio.gpu_hours, ratio.baseline_gpu_hours])
    reached, best, baseline_best = percents(ratio.accuracy, ratio.best_accuracy, ratio.baseline_best_accuracy)
    if hours == baseline_hours:
        text = f"For {reached} % test {run.metric_label} {baseline} and {method} both needed {hours} {unit}."
    else:
        text = f"For {reached} % test {run.metric_label} {baseline} needed {baseline_hours} {unit}, {method} {hours}."
    if ratio.best_accuracy > ratio.accuracy:
        text += f" {baseline} did not reach the {best} % of {method}."
    if ratio.baseline_best_accuracy > ratio.accuracy:
        text += f" {method} did not reach the {baseline_best} % of {baseline}."
    orders = f"Over {ratio.orders} orders of the trials {baseline}" if ratio.orders > 1 else baseline
    estimate, interval = times(ratio)
    doubt = ", so it may be chance" if estimate != "1" and ratio.low <= 1 <= ratio.high else ""
    much = "as much" if estimate == "1" else f"{estimate} times as much"
    interval = f"95 % interval{' of the ratio' if estimate == '1' else ''} {interval}"
    return f"{text} {orders} costs {much} as {method} for the same {run.metric_label} ({interval}{doubt})."


def _tiles(
    run: RunRecord,
    champion: SoupRecord,
    baseline: SoupRecord | None,
    tested: ComparisonRecord | None,
    ingredients: Sequence[IngredientRecord],
) -> list[tuple[str, str]]:
    """The four figures at the top."""
    tiles = [
        ("Champion", style(champion.method, run.labels).label),
        (f"Test {run.metric_label}", f"{_on_test(champion, baseline)} %"),
    ]
    if baseline is not None and baseline.method != champion.method:
        noise = "" if tested is None else f", {'within' if tested.p_adjusted >= SIGNIFICANT else 'beyond'} noise"
        tiles.append((f"Gain over best individual{noise}", f"{_gain_of(champion, baseline)} pp"))
    return [*tiles, *((f"Sweep, {unit}", significant(hours)) for unit, hours in costs(ingredients).items())]


def _on_test(champion: SoupRecord, baseline: SoupRecord | None) -> str:
    """The champion's, told apart from that of the best individual."""
    return percents(champion.test_score, *([baseline.test_score] if baseline else []))[0]


def _gain_of(soup: SoupRecord, other: SoupRecord) -> str:
    """What one has on test over another, in percentage points."""
    return gains(soup.test_score - other.test_score)[0]


def _verdict(results: RunResults, champion: SoupRecord) -> str:
    """Who won, on which split, and how sure what the test split says of it is."""
    run = results.run
    images = split_size(run, "test")
    select = split_size(run, "select")
    name = style(champion.method, run.labels).label
    if champion.select_score is None:
        chosen = (
            f"{name} is the champion, chosen by validation {run.metric_label} because this run has no select split."
        )
    else:
        size = f", {count(select, run.example, run.examples)} set aside for this choice" if select else ""
        chosen = (
            f"{name} is the champion: of the single models it has the best {run.metric_label} on the select split "
            f"({percent(champion.select_score)} %{size}).{_tied(results, champion)}"
        )
    if images is None:
        return f"{chosen} No choice has seen the test split."
    test = f"The test split, which no choice has seen, has {count(images, run.example, run.examples)}"
    if run.metric != ACCURACY:
        return f"{chosen} {test}."
    return f"{chosen} {test}: a 95 % interval of {between(champion.test_score, images)} %."


def _tied(results: RunResults, champion: SoupRecord) -> str:
    """Which other single models have the champion's score on select, and what decided then (`SoupRecord.rank`)."""
    equals = [
        style(soup.method, results.run.labels).label
        for soup in results.soups
        if soup.method in results.coefficients and soup != champion and soup.select_score == champion.select_score
    ]
    if not equals:
        return ""
    has = "has" if len(equals) == 1 else "have"
    return f" {' and '.join(equals)} {has} the same there, so validation {results.run.metric_label} decided."


def _below(run: RunRecord, champion: SoupRecord) -> str:
    """That the champion is no better than what the sweep started from."""
    return (
        f"The champion is below the starting point that all trials share: {below_start(run, champion)}. With "
        "soup.include_initialization the starting point is an ingredient too, and may be the best individual."
    )


def _gain(run: RunRecord, champion: SoupRecord, baseline: SoupRecord, tested: ComparisonRecord | None) -> str:
    """What the gain of the tiles is over, and why it is called noise or not."""
    if champion.method == baseline.method:
        return "No soup beat it on the split that chooses, so mixing gained nothing here."
    _, reached = percents(champion.test_score, baseline.test_score)
    text = f"The best individual trial has {reached} % on it."
    if tested is None:
        return text
    (p,) = p_values(tested.p_adjusted)
    _, interval = gain_and_interval(tested)
    if run.metric == ACCURACY:
        differing = count(tested.wins + tested.losses, f"test {run.example}", f"test {run.examples}")
        text += f" Of {differing} that only one of the two gets right the champion has {tested.wins}."
    corrected = p if p.startswith("<") else f"= {p}"
    return f"{text} The 95 % interval of the gain is {interval} points (corrected p {corrected}, see Comparisons)."


def _renewed(run: RunRecord, champion: SoupRecord, baseline: SoupRecord, soups: Sequence[SoupRecord]) -> str:
    """What of the gain renewed BatchNorm statistics bring alone, which soups have and trials have not."""
    renewed = next((soup for soup in soups if soup.method == RENEWED), None)
    if renewed is None or champion.method == baseline.method:
        return ""
    return (
        f" Renewing the BatchNorm statistics of that trial alone changes its {run.metric_label} by "
        f"{_gain_of(renewed, baseline)} points; to that mixing adds {_gain_of(champion, renewed)}."
    )


def _spent(run: RunRecord, ingredients: Sequence[IngredientRecord], champion: SoupRecord | None) -> str:
    """What the sweep, the starting point and the soup cost."""
    if not ingredients:
        return "No trial has run yet."
    kinds = [
        (status, sum(row.status == status for row in ingredients))
        for status in ("finished", "stopped", "left-out", "failed", "rejected")
    ]
    outcome = ", ".join(
        f"{'all' if number == len(ingredients) else number} {status}" for status, number in kinds if number
    )
    total = spent(costs(ingredients))
    trials = f"{count(len(ingredients), 'trial')}{f' ({outcome})' if outcome else ''}"
    text = f"The sweep of {trials} cost {total}{_money(run, ingredients)}{_kinds(ingredients)}."
    if run.stopped is not None:
        text += f" It was ended before its last trial by {run.stopped}."
    start = percent(run.theta0_score("test"))
    if run.theta0_gpu_hours is not None:
        unit = own_unit(run, cost_unit(ingredients))
        text += (
            f" The starting point they share cost {cost(run.theta0_gpu_hours, unit)} beside that and has "
            f"{start} % test {run.metric_label}."
        )
    elif run.theta0_score("test") is not None:
        text += f" The starting point they share has {start} % test {run.metric_label}."
    if champion is not None:
        text += f" Building the champion from {count(champion.num_ingredients, 'ingredient')} "
        text += f"took {duration(champion.construction_seconds)}."
    return text


def _kinds(ingredients: Sequence[IngredientRecord]) -> str:
    """What of the cost was on which kind of GPU, where there are several."""
    by_device = cost_by_device(ingredients)
    parts = [f"{significant(hours)} on {device}" for device, hours in by_device.items()]
    return f", of which {', '.join(parts)}" if len(parts) > 1 else ""


def _money(run: RunRecord, ingredients: Sequence[IngredientRecord]) -> str:
    """What the sweep's hours cost where their price is known."""
    if run.price_per_gpu_hour is None:
        return ""
    unit = cost_unit(ingredients)  # the price is that of one unit: hours in the other have none
    total = costs(ingredients)[unit] * run.price_per_gpu_hour
    return f" ({significant(total)} at {significant(run.price_per_gpu_hour)} per {unit.removesuffix('s')})"


SECTION = Section("Overview", _body, against_cost)
