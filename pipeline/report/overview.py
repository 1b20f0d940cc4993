"""The first thing to read: which model to take, what it gained, what it cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
from pipeline.report.comparisons import against
from pipeline.report.cost_accuracy import worth
from pipeline.report.cost_lines import cost_lines
from pipeline.report.formats import between, cost, count, duration, percent, significant, spent
from pipeline.report.intervals import split_size
from pipeline.report.markup import facts, paragraph
from pipeline.report.methods import RENEWED, champion_of
from pipeline.report.plot import Plot
from pipeline.report.section import Section
from pipeline.report.starting_point import below_start, own_unit
from pipeline.report.styles import style

_BASELINE = "best-individual"
_SIGNIFICANT = 0.05


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    run, ingredients, soups = results.run, results.ingredients, results.soups
    champion = champion_of(run, soups)
    baseline = next((soup for soup in soups if soup.method == _BASELINE), None)
    if champion is None:
        text = "There is no champion yet: run the soup stage (--stages soup) to mix the ingredients into one model."
        return paragraph(text, "lead") + paragraph(_spent(run, ingredients, None))
    tested = against(results.table("comparisons", ComparisonRecord), champion.method, _BASELINE)
    content = [
        facts(_tiles(run, champion, baseline, tested, ingredients), "tiles"),
        paragraph(_verdict(run, champion), "lead"),
        paragraph(_below(run, champion)) if below_start(run, champion) else "",
        paragraph(_gain(run, champion, baseline, tested) + _renewed(run, champion, baseline, soups))
        if baseline
        else "",
        paragraph(_spent(run, ingredients, champion)),
        *map(paragraph, _worth(results, champion)),
    ]
    return "".join(content)


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
    text = (
        f"For {percent(ratio.accuracy)} % test {run.metric_label} {baseline} needed "
        f"{significant(ratio.baseline_gpu_hours)} {unit}, {method} {significant(ratio.gpu_hours)}."
    )
    for name, best, other in (
        (method, ratio.best_accuracy, baseline),
        (baseline, ratio.baseline_best_accuracy, method),
    ):
        if best > ratio.accuracy:
            text += f" {other} did not reach the {percent(best)} % of {name}."
    orders = f"Over {ratio.orders} orders of the trials {baseline}" if ratio.orders > 1 else baseline
    doubt = ", so it may be chance" if ratio.low <= 1 <= ratio.high else ""
    return (
        f"{text} {orders} costs {significant(ratio.ratio)} times as much as {method} for the same {run.metric_label} "
        f"(95 % interval {significant(ratio.low)} to {significant(ratio.high)}{doubt})."
    )


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
        (f"Test {run.metric_label}", f"{percent(champion.test_score)} %"),
    ]
    if baseline is not None and baseline.method != champion.method:
        gain = champion.test_score - baseline.test_score
        doubt = ", within noise" if tested is not None and tested.p_adjusted >= _SIGNIFICANT else ""
        tiles.append((f"Gain over best individual{doubt}", f"{100 * gain:+.2f} pp"))
    return [*tiles, *((f"Sweep, {unit}", significant(hours)) for unit, hours in costs(ingredients).items())]


def _verdict(run: RunRecord, champion: SoupRecord) -> str:
    """Who won, on which split, and what that is worth on the test split."""
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
            f"({percent(champion.select_score)} %{size})."
        )
    reached = f"On the test split, which no choice has seen, it reaches {percent(champion.test_score)} %"
    if images is None:
        return f"{chosen} {reached}."
    number = count(images, run.example, run.examples)
    if run.metric != ACCURACY:
        return f"{chosen} {reached} ({number})."
    return f"{chosen} {reached} (95 % interval {between(champion.test_score, images)}, {number})."


def _below(run: RunRecord, champion: SoupRecord) -> str:
    """That the champion is no better than what the sweep started from."""
    return (
        f"The champion is below the starting point that all trials share: {below_start(run, champion)}. With "
        "soup.include_initialization the starting point is an ingredient too, and may be the best individual."
    )


def _gain(run: RunRecord, champion: SoupRecord, baseline: SoupRecord, tested: ComparisonRecord | None) -> str:
    """What the champion gained over the best single trial, and whether that is more than chance."""
    if champion.method == baseline.method:
        return "No soup beat it on the split that chooses, so mixing gained nothing here."
    gain = 100 * (champion.test_score - baseline.test_score)
    other = f"the best individual trial ({percent(baseline.test_score)} %)"
    if round(gain, 2) == 0:
        text = f"That is the same as {other}."
    else:
        text = f"That is {abs(gain):.2f} percentage points {'more' if gain > 0 else 'less'} than {other}."
    if tested is None:
        return text
    noise = "within noise" if tested.p_adjusted >= _SIGNIFICANT else "beyond noise"
    interval = f"The 95 % interval of the difference is {100 * tested.low:+.2f} to {100 * tested.high:+.2f} points."
    if run.metric != ACCURACY:
        p = f"p = {significant(tested.p_adjusted)}"
        return (
            f"{text} This is {noise}: the paired bootstrap, corrected for all pairs of methods, gives {p}. {interval}"
        )
    differing = count(tested.wins + tested.losses, f"test {run.example}", f"test {run.examples}")
    return (
        f"{text} This is {noise}: of {differing} that only one of them gets "
        f"right the champion has {tested.wins}; the exact McNemar test, corrected for all pairs of methods, gives "
        f"p = {significant(tested.p_adjusted)}. {interval}"
    )


def _renewed(run: RunRecord, champion: SoupRecord, baseline: SoupRecord, soups: Sequence[SoupRecord]) -> str:
    """What of the gain renewed BatchNorm statistics bring alone, which soups have and trials have not."""
    renewed = next((soup for soup in soups if soup.method == RENEWED), None)
    if renewed is None or champion.method == baseline.method:
        return ""
    alone, rest = (
        100 * (one.test_score - other.test_score) for one, other in ((renewed, baseline), (champion, renewed))
    )
    return (
        f" Renewing the BatchNorm statistics of that trial alone changes its {run.metric_label} by {alone:+.2f} "
        f"points; to that mixing adds {rest:+.2f}."
    )


def _spent(run: RunRecord, ingredients: Sequence[IngredientRecord], champion: SoupRecord | None) -> str:
    """What the sweep, the starting point and the soup cost."""
    if not ingredients:
        return "No trial has run yet."
    kinds = [
        (status, sum(row.status == status for row in ingredients))
        for status in ("finished", "stopped", "left-out", "failed", "rejected")
    ]
    outcome = ", ".join(f"{number} {status}" for status, number in kinds if number)
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


SECTION = Section("Overview", _body)
