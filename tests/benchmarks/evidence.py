"""The evidence study: independently seeded sweeps over CIFAR-10, all methods, pooled.

    make evidence

Runs `configs/cifar10-small-vit.yaml` once per seed and keeps the records and predictions of each run, never its
weights, in `results/evidence/`. From them alone it writes `results/evidence.json`, two figures, the tables in both
READMEs and a page on all runs. What is kept or done is not done again, so it can be run in parts, on one machine after
another; to repeat the whole study, name another folder: `make evidence ARGS="--records runs/again"`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from matplotlib.figure import Figure
from recording import RESULTS, put_between, record

from pipeline.commands.report import report
from pipeline.records import (
    CostRecord,
    IngredientRecord,
    PredictionRecord,
    Record,
    RunRecord,
    SoupRecord,
    VariantRecord,
    cost_unit,
    cumulative_gpu_hours,
)
from pipeline.records.folder import RunFolder, read_run
from pipeline.records.tables import read_table
from pipeline.report.figures import save
from pipeline.report.starting_point import LABEL as START
from pipeline.report.styles import style
from pipeline.soups import METHODS as SOUP_METHODS
from pipeline.studies.base import predicted_images
from pipeline.studies.statistics import Curve, accuracy_difference, cost_ratio, mcnemar

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "cifar10-small-vit"
DATA = ROOT.parent / "shared" / "data"
RECORDS = RESULTS / "evidence"
PAGE = Path(__file__).with_name("README.md")  # that of the benchmarks
_KEPT = ("run.json", "config.yaml", "*.parquet", "coefficients/*.parquet", "predictions/**/*.parquet")
METHODS = ("mehl-plus", "mehl-plus-greedy")
# What settings of the coefficients are worth: the learning rate in every sweep, the rest in the last, for the time.
RATES: dict[str, dict[str, list[float | str]]] = {
    "mehl-plus-greedy": {"learning_rate": [0.03, 0.1]},
    "mehl-plus": {"learning_rate": [0.03]},
}
SETTINGS = {
    "mehl-plus-greedy": RATES["mehl-plus-greedy"],
    "mehl-plus": {**RATES["mehl-plus"], "block_size": [8], "layers": ["module"]},
    "hl-plus": {
        "learning_rate": [0.003, 0.03, 0.1],
        "weight_decay": [0, 1],
        "inner_iterations": [32, 480],
        "direction_scale": ["unit"],
    },
}
# What the tables and figures call the methods; the records of the runs that are kept do not say.
LABELS = {name: method.label for name, method in SOUP_METHODS.items()}
BASELINES = ("greedy", "best-individual", "uniform", "ensemble", "greedy-ensemble")

Row = TypeVar("Row", bound=Record)
# By method and baseline: what the one adds to the test accuracy of the other.
Effects: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Sweep:
    """The records of a finished run; ``correct`` says by the path of the predictions which test images are right."""

    run: RunRecord
    ingredients: list[IngredientRecord]
    soups: dict[str, SoupRecord]
    costs: list[CostRecord]
    ablation: list[VariantRecord]
    correct: dict[str, np.ndarray]


def main() -> None:
    """Run, pool, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")
    parser.add_argument(
        "--records", type=Path, default=RECORDS, help="folder of what is kept of them (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="folder of CIFAR-10 and the starting weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the config's")
    options = parser.parse_args()
    folders = [options.records / f"{CONFIG}-{seed}" for seed in options.seeds]
    if options.overrides and options.records == RECORDS:
        parser.error("what is kept was run with the study's own settings; give another --records folder too")
    if any(setting.split("=")[0] in ("seed", "name", "output") for setting in options.overrides):
        parser.error("seed, name and output follow from --seeds and --runs; give those")
    for seed, folder in zip(options.seeds, folders, strict=True):
        ablation = json.dumps(SETTINGS if seed == options.seeds[-1] else RATES)
        asked = [f"seed={seed}", f"name={folder.name}", f"study.ablation={ablation}"]
        measure(CONFIG, options.runs, folder, *asked, *files(options.data), *options.overrides)
    sweeps = [read_sweep(folder) for folder in folders]
    effects = effects_of(sweeps)
    record("evidence", config=CONFIG, effects_pp=effects, **pooled(sweeps))  # first: the rest changes the checkout
    figures = {"evidence-effects": effects_figure(effects), "evidence-cost": cost_figure(sweeps)}
    for name, figure in figures.items():
        save(figure, "svg", RESULTS / f"{name}.svg")
    put_between(ROOT / "README.md", "evidence-summary", summary(sweeps, effects))
    put_between(PAGE, "evidence", markdown(sweeps, effects))
    report(folders, options.runs / "evidence.html")


def files(data: Path) -> list[str]:
    """Where the config's data and starting weights are, as settings."""
    return [
        *(f"data.{part}={data.absolute() / f'cifar10_{part}.parquet'}" for part in ("train", "test")),
        f"model.pretrained={data.absolute() / 'theta0-small-vit.safetensors'}",
    ]


def measure(config: str, runs: Path, records: Path, *arguments: str) -> None:
    """Run a shipped config, with settings as on the command line, and keep its records, unless they are there."""
    if records.exists():
        return
    run(config, runs / records.name, *arguments)
    keep(runs / records.name, records)


def keep(folder: Path, records: Path) -> None:
    """Copy the records and predictions of a run, all or none of them."""
    partial = records.with_name(f".{records.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path in (path for pattern in _KEPT for path in folder.glob(pattern)):
        copy = partial / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    partial.rename(records)


def run(config: str, output: Path, *arguments: str) -> None:
    """A shipped config with settings and options as on the command line; ends this program if the run fails."""
    command = [sys.executable, "pipeline/run.py", "--config", f"configs/{config}.yaml", f"output={output.absolute()}"]
    if status := subprocess.run([*command, *arguments], cwd=ROOT).returncode:
        sys.exit(status)


def read_sweep(folder: Path) -> Sweep:
    """The records of a run, in its folder or kept of it."""
    soups = read_table(folder / "soups.parquet", SoupRecord)
    costs = study(folder / "cost_accuracy.parquet", CostRecord)
    paths = {predictions_of(row.method) for row in soups} | {str(row.predictions) for row in costs}
    return Sweep(
        run=read_run(RunFolder(folder)),
        ingredients=read_table(folder / "ingredients.parquet", IngredientRecord),
        soups={row.method: row for row in soups},
        costs=costs,
        ablation=study(folder / "ablation.parquet", VariantRecord),
        correct={path: predicted_images(read_table(folder / path, PredictionRecord)).correct for path in paths},
    )


def study(path: Path, kind: type[Row]) -> list[Row]:
    """The table of a study, empty where it was not asked for."""
    return read_table(path, kind) if path.exists() else []


def predictions_of(method: str) -> str:
    """Where the predictions of a soup of the whole sweep are, in the run's folder."""
    return f"predictions/{method}.parquet"


def pooled(sweeps: Sequence[Sweep]) -> dict[str, object]:
    """Every figure of the study."""
    return {
        "seeds": [sweep.run.seed for sweep in sweeps],
        "commits_of_the_runs": sorted({str(sweep.run.git_commit) for sweep in sweeps}),
        "machines_of_the_runs": sorted({sweep.run.machine for sweep in sweeps}),
        "cost_unit": cost_unit(sweeps[0].ingredients),
        "cost_ratios": {name: ratio_over_greedy(sweeps, name, hours) for name in METHODS},
        "image_ratios": {name: ratio_over_greedy(sweeps, name, in_images) for name in METHODS},
        "sweeps": [
            {
                "seed": sweep.run.seed,
                "theta0_test_accuracy": sweep.run.theta0_test_accuracy,
                "champion": sweep.run.champion,
                "cost": sum(row.gpu_hours for row in sweep.ingredients),
                "trials": [
                    row.model_dump(exclude={"sha256", "theta0_sha256", "path", "model_version"})
                    for row in sweep.ingredients
                ],
                "soups": [row.model_dump() for row in sweep.soups.values()],
                "cost_accuracy": [row.model_dump() for row in sweep.costs],
                "ablation": [row.model_dump() for row in sweep.ablation],
            }
            for sweep in sweeps
        ],
    }


def ratio_over_greedy(
    sweeps: Sequence[Sweep], method: str, cost: Callable[[Sweep, CostRecord], float]
) -> dict[str, Any] | None:
    """What greedy takes for the accuracy that ``method`` reaches too, in times of its cost; None where not followed."""
    if not all(any(point.method == method for point in sweep.costs) for sweep in sweeps):
        return None
    ours, theirs = ([curve(sweep, name, cost) for sweep in sweeps] for name in (method, "greedy"))
    pooled = cost_ratio(ours, theirs)
    return {
        **dataclasses.asdict(pooled.ratio),
        "per_sweep": [dataclasses.asdict(cost_ratio([one], [other])) for one, other in zip(ours, theirs, strict=True)],
    }


def curve(sweep: Sweep, method: str, cost: Callable[[Sweep, CostRecord], float]) -> Curve:
    """A method's cost curve in search order."""
    points = [point for point in sweep.costs if point.method == method and point.order_seed is None]
    correct = np.stack([sweep.correct[str(point.predictions)] for point in points])
    return Curve(np.array([cost(sweep, point) for point in points]), correct)


def hours(sweep: Sweep, point: CostRecord) -> float:
    """The cost of a point as recorded."""
    return point.gpu_hours


def in_images(sweep: Sweep, point: CostRecord) -> float:
    """Training images seen in place of hours, which other programs on the machine do not change."""
    trials = [row.model_copy(update={"gpu_hours": row.images_seen}) for row in sweep.ingredients]
    return cumulative_gpu_hours(trials, point.num_ingredients)


def effects_of(sweeps: Sequence[Sweep]) -> Effects:
    """The effect of each of our methods over each baseline that was built."""
    built = sweeps[0].soups
    return {
        method: {name: effect(sweeps, method, name) for name in BASELINES if name in built}
        for method in METHODS
        if method in built
    }


def effect(sweeps: Sequence[Sweep], method: str, baseline: str) -> dict[str, Any]:
    """What ``method`` adds to the test accuracy of ``baseline``, in percentage points."""
    ours, theirs = (np.stack([sweep.correct[predictions_of(name)] for sweep in sweeps]) for name in (method, baseline))
    interval = accuracy_difference(ours, theirs)
    return {
        **{key: 100 * value for key, value in dataclasses.asdict(interval).items()},
        "per_sweep": [100 * float(a.mean() - b.mean()) for a, b in zip(ours, theirs, strict=True)],
        "mcnemar_p": [mcnemar(a, b) for a, b in zip(ours, theirs, strict=True)],
    }


def summary(sweeps: Sequence[Sweep], effects: Effects) -> str:
    """The README's table: mean test accuracy, and what our methods add to each baseline with 95 % intervals."""
    tests = {name: [float(sweep.soups[name].test_accuracy or 0) for sweep in sweeps] for name in sweeps[0].soups}
    tests[START] = [float(sweep.run.theta0_figures["test_accuracy"]) for sweep in sweeps]
    means = {name: 100 * statistics.mean(values) for name, values in tests.items()}
    lines = [f"| | test % | {' | '.join(f'{LABELS[method]} adds' for method in effects)} |"]
    lines.append(f"|---|---|{'---|' * len(effects)}")
    for name in sorted({*effects, *BASELINES, START} & means.keys(), key=means.__getitem__, reverse=True):
        cells = [f"{means[name]:.2f}"]
        for over in effects.values():
            found = over.get(name)
            cells.append(f"{found['estimate']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})" if found else "")
        lines.append(f"| {LABELS.get(name, name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def markdown(sweeps: Sequence[Sweep], effects: Effects) -> str:
    """The tables of the benchmarks' page: means over the sweeps, best test accuracy first, and the effects."""
    lines = [
        "| method | validation % | select % | test % | time per epoch | epochs | construction | peak memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = []
    for method in sweeps[0].soups:
        soups = [sweep.soups[method] for sweep in sweeps]
        means = {
            name: statistics.mean(float(getattr(row, name) or 0) for row in soups)
            for name in ("val_accuracy", "select_accuracy", "test_accuracy", "construction_seconds", "epochs")
        }
        memory = statistics.mean(row.peak_memory_bytes for row in soups) / 2**20
        known = f" (+{soups[0].epochs_of_trials})" if soups[0].epochs_of_trials else ""  # passes that the trials made
        per_epoch = f"{means['construction_seconds'] / means['epochs']:.1f} s" if means["epochs"] else "-"
        rows.append(
            (
                means["test_accuracy"],
                f"| {LABELS[method]} | {100 * means['val_accuracy']:.2f} | {100 * means['select_accuracy']:.2f} "
                f"| {100 * means['test_accuracy']:.2f} | {per_epoch} | {means['epochs']:.0f}{known} "
                f"| {means['construction_seconds']:.0f} s | {memory:.0f} MiB |",
            )
        )
    starts = [sweep.run.theta0_figures for sweep in sweeps]
    cells = [
        f"{100 * statistics.mean(one[name] for one in starts):.2f}" if all(name in one for one in starts) else "-"
        for name in ("val_accuracy", "select_accuracy", "test_accuracy")
    ]
    lines += [line for _, line in sorted(rows, reverse=True)]
    lines.append(f"| {START} | {' | '.join(cells)} | - | - | - | - |")
    for method, over in effects.items():
        lines += ["", f"| {LABELS[method]} against | test accuracy, pp (95 % interval) | per sweep | McNemar p |"]
        lines += ["|---|---|---|---|"]
        for baseline, found in over.items():
            per_sweep = ", ".join(f"{value:+.2f}" for value in found["per_sweep"])
            tests = ", ".join(f"{value:.2g}" for value in found["mcnemar_p"])
            interval = f"{found['estimate']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
            lines.append(f"| {LABELS[baseline]} | {interval} | {per_sweep} | {tests} |")
    return "\n".join(lines)


def effects_figure(effects: Effects) -> Figure:
    """Effect of our methods over each baseline, pooled with its interval, and each sweep as a dot."""
    figure = Figure(figsize=(6.8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    baselines = list(next(iter(effects.values())))[::-1]
    for number, (method, over) in enumerate(effects.items()):
        look = style(method, LABELS)
        for place, baseline in enumerate(baselines):
            found, height = over[baseline], place + 0.2 - 0.4 * number
            axes.plot([found["low"], found["high"]], [height, height], color=look.colour, linewidth=2)
            axes.plot(found["per_sweep"], [height] * len(found["per_sweep"]), "o", color="#808080", markersize=3.5)
            label = look.label if place == 0 else None
            axes.plot(found["estimate"], height, look.marker, color=look.colour, markersize=8, label=label)
    axes.axvline(0, color="#404040", linewidth=1)
    axes.set_yticks(range(len(baselines)), [f"over {LABELS[name]}" for name in baselines])
    axes.set_xlabel("Gain in test accuracy, percentage points (line: 95 % interval, dots: sweeps)", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    return figure


def cost_figure(sweeps: Sequence[Sweep]) -> Figure:
    """Fig. 2: mean over the sweeps by number of ingredients, and each sweep as a thin line."""
    figure = Figure(figsize=(6.8, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for method in dict.fromkeys(row.method for row in sweeps[0].costs):
        look = style(method, LABELS)
        lines = [
            sorted((row for row in sweep.costs if row.method == method), key=lambda row: row.num_ingredients)
            for sweep in sweeps
        ]
        for line in lines:
            hours, accuracies = [row.gpu_hours for row in line], [100 * row.test_accuracy for row in line]
            axes.plot(hours, accuracies, color=look.colour, linewidth=0.8, alpha=0.45)
        steps = list(zip(*lines, strict=False))  # sweeps with failed trials have fewer points
        axes.plot(
            [statistics.mean(row.gpu_hours for row in step) for step in steps],
            [100 * statistics.mean(row.test_accuracy for row in step) for step in steps],
            color=look.colour, marker=look.marker, markersize=7, linewidth=2.4, label=look.label,
        )  # fmt: skip
    axes.set_xlabel(f"Cost of the trials so far ({cost_unit(sweeps[0].ingredients)})")
    axes.set_ylabel("Test accuracy (%)")
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False)
    return figure


if __name__ == "__main__":
    main()
