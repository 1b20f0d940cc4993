"""The rule that ends a sweep, replayed over the sweeps that are kept: what it would have saved, and what lost.

    python tests/benchmarks/stop_replay.py

Of every kept sweep that was followed in search order, and every setting of `search.stop` in the grid below, it says
after how many trials the rule would have ended the sweep, the core hours that would have been saved, and what the soups
of all trials have over those of the trials until then on `test`, which the rule never sees. Looks at records and
predictions alone; takes seconds. A sweep is taken as run one trial at a time: of more, those under way are saved less.
"""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from evidence import RECORDS
from recording import record

from pipeline.config import StopConfig
from pipeline.records import CostRecord, IngredientRecord, PredictionRecord
from pipeline.records.folder import RunFolder, read_run
from pipeline.records.tables import read_table
from pipeline.soup_requests import SoupRequest
from pipeline.studies import StudyInputs, cost_rows, no_more_gain
from pipeline.studies.statistics import bootstrap_interval, paired_interval, resampled_scores

GAINS = (0.01, 0.02, 0.05, 0.1, 0.2)  # in a core hour; the sweeps take about one
PATIENCE = (1, 2)


def main() -> None:
    """Replay, record, print."""
    folders = [folder for folder in sorted(RECORDS.iterdir()) if len(sizes(curve(folder))) > 2]
    replays = [replay(folder) for folder in folders]
    record("stop_replay", sweeps=replays)
    print(table(replays))


def curve(folder: Path) -> list[CostRecord]:
    """The points of a sweep in search order."""
    return [row for row in read_table(folder / "cost_accuracy.parquet", CostRecord) if row.order_seed is None]


def sizes(points: list[CostRecord]) -> list[int]:
    """At how many ingredients there are points."""
    return sorted({point.num_ingredients for point in points})


def replay(folder: Path) -> dict[str, Any]:
    """What every setting would have come to in a sweep, by all methods together and by each alone."""
    inputs = inputs_of(folder)
    points = cost_rows(inputs, curve(folder))
    methods = list(dict.fromkeys(point.method for point in points))
    outcomes = [
        outcome(inputs, points, followed, StopConfig(min_gain=gain, patience=patience))
        for followed, gain, patience in product([methods, *([method] for method in methods)], GAINS, PATIENCE)
    ]
    return {"sweep": folder.name, "trials": len(inputs.ingredients), "outcomes": outcomes}


def inputs_of(folder: Path) -> StudyInputs:
    """A kept sweep, as a study looks at it."""

    def request(*_: object) -> SoupRequest:
        raise NotImplementedError  # what is kept is not built again

    return StudyInputs(
        settings=None,
        run=read_run(RunFolder(folder)),
        ingredients=read_table(folder / "ingredients.parquet", IngredientRecord),
        soups=[],
        request=request,
        read_coefficients=lambda method: None,
        read_predictions=lambda path: read_table(folder / path, PredictionRecord),
    )


def outcome(inputs: StudyInputs, points: list[CostRecord], followed: list[str], rule: StopConfig) -> dict[str, Any]:
    """After how many trials a rule that looks at the methods ``followed`` ends the sweep, and what that comes to."""
    own = [point for point in points if point.method in followed]
    end = next((size for size in sizes(own) if no_more_gain(rule, up_to(own, size))), sizes(own)[-1])
    at_end, last = (
        {point.method: point for point in own if point.num_ingredients == size} for size in (end, sizes(own)[-1])
    )
    spent, whole = (next(iter(rows.values())).gpu_hours for rows in (at_end, last))
    return {
        "methods": followed,
        "min_gain": rule.min_gain,
        "patience": rule.patience,
        "ingredients": end,
        "hours_saved": whole - spent,
        "share_saved": 1 - spent / whole,
        "lost": {method: lost(inputs, at_end[method], last[method]) for method in followed},
    }


def up_to(points: list[CostRecord], size: int) -> list[CostRecord]:
    """The points that are known when a soup of so many ingredients is."""
    return [point for point in points if point.num_ingredients <= size]


def lost(inputs: StudyInputs, end: CostRecord, last: CostRecord) -> dict[str, float]:
    """What the soup of all trials has over that at the end, in points of `test`, with its 95 % interval."""
    paths = {str(row.predictions) for row in (end, last)}
    models = {path: inputs.predicted(path) for path in paths}
    now, then = str(last.predictions), str(end.predictions)
    if inputs.score is None:
        ours, theirs = models[now].correct, models[then].correct
        gain = paired_interval(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()), len(ours))
    else:
        scores = resampled_scores(models, inputs.score)
        differences = scores[now] - scores[then]
        gain = bootstrap_interval(float(np.mean(differences)), differences)
    return {"estimate": 100 * gain.estimate, "low": 100 * gain.low, "high": 100 * gain.high}


def table(replays: list[dict[str, Any]]) -> str:
    """A row a setting: by the methods together, what is saved on average, and the most that a soup loses."""
    lines = ["| min_gain | patience | ends after | saved | MEHL-Soup+ loses |", "|---|---|---|---|---|"]
    for gain, patience in product(GAINS, PATIENCE):
        rows = [
            row
            for one in replays
            for row in one["outcomes"]
            if len(row["methods"]) > 1 and (row["min_gain"], row["patience"]) == (gain, patience)
        ]
        ends = ", ".join(f"{row['ingredients']}" for row in rows)
        saved = np.mean([row["share_saved"] for row in rows])
        losses = ", ".join(f"{row['lost']['mehl-plus']['estimate']:+.2f}" for row in rows)
        lines.append(f"| {gain:g} | {patience} | {ends} | {100 * saved:.0f} % | {losses} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
