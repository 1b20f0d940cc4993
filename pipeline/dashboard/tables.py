"""The tables of the page, as text, and the same numbers as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.config import StopConfig
from pipeline.dashboard.shown import SPLITS, Shown, units_of
from pipeline.digits import apart, significant
from pipeline.records import CostRecord, IngredientRecord, Scalar, cost_unit, costs, title_of
from pipeline.records.hyperparameters import compared, shown
from pipeline.registry import RunningTrial, WatchedCurve, WatchedSweep
from pipeline.report.formats import MISSING, count, duration, percent, spent
from pipeline.report.markup import Cell, Column, Link
from pipeline.report.styles import style
from pipeline.studies import gains_per_hours

MOST_ROWS = 100  # of a table on the page; the CSV has all
MOST_POINTS = 10  # of each curve in the table of gains


@dataclass(frozen=True)
class Table:
    """Cells in rows, of which some are ``marked``."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    marked: frozenset[int] = frozenset()


def moment(milliseconds: float) -> str:
    """A time of the registry, on the clock of this machine."""
    return f"{datetime.fromtimestamp(milliseconds / 1000).astimezone():%Y-%m-%d %H:%M %Z}"


def status_of(sweep: WatchedSweep) -> str:
    """Whether a sweep runs, in a word or two."""
    if sweep.is_running:
        return "running"
    has_finished = sweep.status == "FINISHED"
    return "stopped by its rule" if has_finished and sweep.origin.get("stopped") else sweep.status.lower()


def facts_of(sweep: Shown) -> Iterator[tuple[str, str]]:
    """What one sweep is at: its trials, its cost against its budget, its champion."""
    look = sweep.look
    yield "Status", f"{status_of(look.sweep)}, begun {moment(look.sweep.started)}"
    kinds = [row.status for row in look.trials.values()]
    parts = [f"{number} {kind}" for kind in dict.fromkeys(kinds) if (number := kinds.count(kind))]
    parts += [f"{len(look.running)} {_without_outcome(sweep)}"] if look.running else []
    planned = look.setting("search", "num_trials")
    of_all = f" of {planned:,}" if isinstance(planned, int) else ""
    yield "Trials", (", ".join(parts) or "none yet") + of_all
    yield "Cost of the trials that ended", spent(costs(look.trials.values()))
    hours, price = (
        costs(look.trials.values()).get(look.unit, 0.0),
        _number(look.setting("report", "price_per_gpu_hour")),
    )
    if price is not None:
        yield "Price", f"{significant(hours * price)} in money, at {significant(price)} an hour"
    rule = look.setting("search", "stop")
    if isinstance(rule, Mapping):
        yield from _budget(rule, hours, price, look.unit)
    if reason := look.sweep.origin.get("stopped"):
        yield "Stopped by its rule", reason
    champion = look.sweep.origin.get("champion")
    if champion:
        text = style(champion, sweep.labels).label
        soup = next((soup for soup in look.soups if soup.method == champion), None)
        for split in SPLITS:
            if soup is not None and split in soup.scores:
                text += f", {split} {percent(soup.scores[split])} %"
        yield "Champion", text


def _budget(rule: Mapping[str, Any], hours: float, price: float | None, unit: str) -> Iterator[tuple[str, str]]:
    """What a stop rule allows, and how much of it is spent."""
    most, most_money = _number(rule.get("max_gpu_hours")), _number(rule.get("max_price"))
    if most:
        yield "Budget", f"{' of '.join(apart([hours, most]))} {unit} ({100 * hours / most:.0f} %)"
    if most_money and price is not None:
        money = hours * price
        yield (
            "Budget, in money",
            f"{' of '.join(apart([money, most_money]))} ({100 * money / most_money:.0f} %)",
        )
    least = _number(rule.get("min_gain"))
    if least is not None:
        per, patience = _per_hours(rule), rule.get("patience") or 1
        yield (
            "Stop rule",
            f"ends where the gain on select of {significant(per)} {unit} stays below {100 * least:.2f} pp at its upper "
            f"end for {count(int(patience), 'point')}",
        )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _per_hours(rule: Mapping[str, Any]) -> float:
    return _number(rule.get("per_gpu_hours")) or 1.0


def gains(sweeps: Sequence[Shown]) -> Table:
    """What the stop rule sees: what each point of the curves gained on `select`, the last first."""
    several = len(sweeps) > 1
    curves = [(sweep, _gains_of(sweep, curve)) for sweep in sweeps for curve in sweep.look.curves]
    most = min(MOST_POINTS, MOST_ROWS // max(len(curves), 1) or 1)
    rows = [[*([sweep.title] if several else []), *cells] for sweep, of_curve in curves for cells in of_curve[:most]]
    per = {significant(_rule_hours(sweep)) for sweep in sweeps}
    columns = [
        *([Column("Sweep", False)] if several else []),
        Column("Method", False),
        *map(Column, ("Ingredients", "Cost", "Select %", "Gain, pp", "95 % interval")),
        Column("Upper end, pp"),
        Column("Against the rule", False),
    ]
    what = f"the upper end for {' or '.join(sorted(per))} {units_of(sweeps)}"
    caption = f"Gain on select from point to point, the last first; {what}"
    if any(len(of_curve) > most for _, of_curve in curves):
        caption += f"; the last {count(most, 'point')} of each curve, the CSV has all"
    return Table(caption, columns, rows)


def _rule_hours(sweep: Shown) -> float:
    rule = sweep.look.setting("search", "stop")
    return _per_hours(rule) if isinstance(rule, Mapping) else 1.0


def _gains_of(sweep: Shown, curve: WatchedCurve) -> list[list[Cell]]:
    rule = sweep.look.setting("search", "stop")
    least = _number(rule.get("min_gain")) if isinstance(rule, Mapping) else None
    label = style(curve.method, sweep.labels).label
    points = [row for row in curve.points if row.num_ingredients > 0]
    uppers = gains_per_hours(StopConfig.model_construct(per_gpu_hours=_rule_hours(sweep)), points)
    rows: list[list[Cell]] = []
    below = 0
    before: CostRecord | None = None
    for row, each in zip(points, [math.inf, *uppers], strict=False):
        gain, bounds, upper, verdict = MISSING, MISSING, MISSING, MISSING
        if before is not None and row.select_score is not None and before.select_score is not None:
            gain = f"{100 * (row.select_score - before.select_score):+.2f}"
        if row.select_gain_low is not None and row.select_gain_high is not None:
            bounds = f"{100 * row.select_gain_low:+.2f} to {100 * row.select_gain_high:+.2f}"
        if math.isfinite(each):
            upper = f"{100 * each:+.2f}"
            if least is not None:
                below = below + 1 if each < least else 0
                verdict = f"below {100 * least:.2f}, {below} in a row" if below else f"not below {100 * least:.2f}"
        method = Link(label, sweep.look.sweep.page(curve.run_id))
        paid = f"{significant(row.gpu_hours)} {sweep.look.unit}"
        rows.append([method, str(row.num_ingredients), paid, percent(row.select_score), gain, bounds, upper, verdict])
        before = row
    return rows[::-1]


def trials(sweeps: Sequence[Shown], order: str) -> Table:
    """The trials, those that run first; then the newest, or the best on `select` (without one: on `fit`)."""
    several = len(sweeps) > 1
    found: list[tuple[Shown, str, IngredientRecord | RunningTrial]] = []
    for sweep in sweeps:
        found += [(sweep, trial.run_id, trial) for trial in sweep.look.running]
        found += [(sweep, run_id, row) for run_id, row in sweep.look.trials.items()]
    found.sort(key=lambda one: _place(one[2], order))
    compare = compared([dict(trial.hyperparameters) for _, _, trial in found])
    names = [name for name in compare.differing if name != "seed"]
    columns = [
        *([Column("Sweep", False)] if several else []),
        Column("Trial"),
        Column("Status", False),
        *map(Column, ("Validation %", "Select %", "Test %")),
        *(Column(title_of(name)) for name in names),
        Column("Cost"),
    ]
    rows = [
        [*([sweep.title] if several else []), Link(str(trial.trial_index), sweep.look.sweep.page(run_id)), *cells]
        for sweep, run_id, trial in found[:MOST_ROWS]
        for cells in [_trial_cells(sweep, trial, names)]
    ]
    caption = f"{count(len(found), 'trial')}, {'the best' if order == 'best' else 'the newest'} first"
    if len(found) > MOST_ROWS:
        caption += f"; the first {MOST_ROWS} of them, the CSV has all"
    return Table(caption, columns, rows)


def _place(trial: IngredientRecord | RunningTrial, order: str) -> tuple[float, ...]:
    """Where a trial stands in the table; the lowest comes first."""
    if isinstance(trial, RunningTrial):
        return (0, -trial.trial_index)
    if order != "best":
        return (1, -trial.trial_index)
    reached = trial.val_score if trial.select_score is None else trial.select_score
    return (1, 2.0 if reached is None else -reached, trial.trial_index)


def _without_outcome(sweep: Shown) -> str:
    """What becomes of trials that have no outcome, in a word: those of a sweep that was ended go on when it does."""
    return "running" if sweep.look.sweep.is_running else "interrupted"


def _trial_cells(sweep: Shown, trial: IngredientRecord | RunningTrial, names: Sequence[str]) -> list[Cell]:
    values: Mapping[str, Scalar] = trial.hyperparameters
    texts = shown(values)
    known = [texts.get(name, MISSING) for name in names]
    if isinstance(trial, RunningTrial):
        loss = "" if trial.train_loss is None else f", training loss {significant(trial.train_loss)}"
        status = f"{_without_outcome(sweep)}, begun {moment(trial.started)}{loss}"
        return [status, MISSING, MISSING, MISSING, *known, MISSING]
    status = f"{trial.status}: {trial.reason}" if trial.reason else trial.status
    reached = [percent(value) for value in (trial.val_score, trial.select_score, trial.test_score)]
    paid = " and ".join(f"{significant(hours)} {unit}" for unit, hours in costs([trial]).items())
    return [status if len(status) <= 60 else f"{status[:57]}...", *reached, *known, paid or MISSING]


def soups(sweeps: Sequence[Shown]) -> Table:
    """The soups of each sweep, the best on `select` first, with 95 % intervals; champions are marked."""
    several, rows, marked = len(sweeps) > 1, list[list[Cell]](), set[int]()
    for sweep in sweeps:
        for soup in sorted(sweep.look.soups, key=lambda soup: -soup.scores.get("select", soup.scores.get("val", -1.0))):
            cells: list[Cell] = [Link(style(soup.method, sweep.labels).label, sweep.look.sweep.page(soup.run_id))]
            for split in SPLITS:
                value = soup.scores.get(split)
                bounds = None if value is None else sweep.bounds(value, split)
                cells += [percent(value), f"{percent(bounds[0])} to {percent(bounds[1])}" if bounds else MISSING]
            figures = soup.figures
            selected = figures.get("num_selected")
            cells.append(
                MISSING if selected is None else f"{selected:.0f} of {figures.get('num_ingredients', selected):.0f}"
            )
            cells.append(duration(figures["construction_seconds"]) if "construction_seconds" in figures else MISSING)
            cells.append(MISSING if soup.version is None else str(soup.version))
            if soup.method == sweep.look.sweep.origin.get("champion"):
                marked.add(len(rows))
            rows.append([*([sweep.title] if several else []), *cells])
    columns = [
        *([Column("Sweep", False)] if several else []),
        Column("Method", False),
        *map(Column, ("Select %", "95 % interval", "Test %", "95 % interval", "Selected", "Construction", "Version")),
    ]
    return Table("The soups, the best on select first; the champion is marked", columns, rows, frozenset(marked))


def csv_of(table: str, sweeps: Sequence[Shown]) -> str:
    """All that is known of the ``sweeps``: a row per ``curves`` point, per one of the ``trials``, of the ``soups``."""
    rows = [
        {"sweep": sweep.look.sweep.name, "sweep_id": sweep.look.sweep.sweep_id, **values}
        for sweep in sweeps
        for values in _TABLES[table](sweep)
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _curve_rows(sweep: Shown) -> Iterator[dict[str, Any]]:
    for curve in sweep.look.curves:
        for row in curve.points:
            low_high: dict[str, float | None] = {}
            for split in SPLITS:
                value = row.select_score if split == "select" else row.test_score
                bounds = None if value is None else sweep.bounds(value, split)
                low_high |= dict(zip((f"{split}_low", f"{split}_high"), bounds or (None, None), strict=True))
            dropped = {"order_seed", "predictions", "block_size"}
            yield {"run_id": curve.run_id, **row.model_dump(exclude=dropped), **low_high, "unit": sweep.look.unit}


def _trial_rows(sweep: Shown) -> Iterator[dict[str, Any]]:
    for run_id, row in sweep.look.trials.items():
        yield {"run_id": run_id, **row.model_dump(), "unit": cost_unit([row])}
    status = _without_outcome(sweep)
    for trial in sweep.look.running:
        yield {"run_id": trial.run_id, "trial_index": trial.trial_index, "status": status, **trial.hyperparameters}


def _soup_rows(sweep: Shown) -> Iterator[dict[str, Any]]:
    for soup in sweep.look.soups:
        yield {"run_id": soup.run_id, "method": soup.method, "version": soup.version, **soup.figures}


_TABLES = {"curves": _curve_rows, "trials": _trial_rows, "soups": _soup_rows}
CSV_TABLES = tuple(_TABLES)
