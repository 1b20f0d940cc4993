"""The evidence study on texts: MiniLM-L6 on the four GLUE tasks of the model-soups paper, a sweep of 12 trials each.

    python tests/benchmarks/evidence_glue.py

Runs `configs/glue-minilm.yaml` once per task and keeps the records of each run in `results/evidence/`, from which it
writes `results/evidence_glue.json` and prints a table. What is kept or done is not done again, so it can be run in
parts: `--tasks cola rte`. Of SST-2 it takes 7,500 phrases, 1,500 of them for validation, and 10,000 of the others as a
second test set, `unused`, since the 872 of the first resolve little.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from evidence import DATA, LABELS, RECORDS, measure, predictions_of, read_sweep
from recording import record

from pipeline.metrics import METRICS
from pipeline.records import ComparisonRecord, PredictionRecord, score
from pipeline.records.tables import read_table
from pipeline.studies.base import predicted_images
from pipeline.studies.statistics import paired_interval

CONFIG = "glue-minilm"
SINGLE = "data.text_pair_column=null"
TASKS = {
    "mrpc": ["data.metric=accuracy_and_f1"],
    "rte": ["data.metric=accuracy"],
    "cola": ["data.metric=matthews", SINGLE],
    "sst2": ["data.metric=accuracy", SINGLE],
}
NAMES = {"mrpc": "MRPC", "rte": "RTE", "cola": "CoLA", "sst2": "SST-2"}
PHRASES, UNUSED = 7500, 10_000  # of SST-2
# Tab. J.1 of the model-soups paper, BERT-base: the best of 32 trials, and what soups add to it, in points.
PAPER = {
    "mrpc": {"best-individual": 88.3, "uniform": 76.0 - 88.3, "greedy": 0.0},
    "rte": {"best-individual": 61.0, "uniform": 52.7 - 61.0, "greedy": 0.7},
    "cola": {"best-individual": 59.1, "uniform": 0.0 - 59.1, "greedy": 0.0},
    "sst2": {"best-individual": 92.5, "uniform": 89.9 - 92.5, "greedy": 0.5},
}
BEST = "best-individual"


def main() -> None:
    """Run what is not kept, record, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with glue/ and minilm-l6/")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    for task in options.tasks:
        asked = [f"name={CONFIG}-{task}", *TASKS[task], *files(task, options.data.absolute(), options.runs.absolute())]
        measure(CONFIG, options.runs, folder(task), *asked)
    tasks = {task: results(task) for task in TASKS if folder(task).exists()}
    record("evidence_glue", config=CONFIG, tasks=tasks)
    print(table(tasks))


def folder(task: str) -> Path:
    """Where the records of a task are kept."""
    return RECORDS / f"{CONFIG}-{task}"


def files(task: str, data: Path, runs: Path) -> list[str]:
    """Where the data of a task and the model are, as settings."""
    train, test = (data / "glue" / f"glue_{task}_{part}.parquet" for part in ("train", "test"))
    settings = [f"data.test={test}", *(f"{key}={data / 'minilm-l6'}" for key in ("model.name", "data.tokenizer"))]
    if task != "sst2":
        return [f"data.train={train}", *settings]
    phrases = pq.read_table(train)
    order = np.random.default_rng(0).permutation(len(phrases))
    runs.mkdir(parents=True, exist_ok=True)
    parts = {"some": order[:PHRASES], "unused": order[PHRASES : PHRASES + UNUSED]}
    for name, rows in parts.items():
        if not (runs / f"sst2-{name}.parquet").exists():
            pq.write_table(phrases.take(np.sort(rows)), runs / f"sst2-{name}.parquet")
    return [f"data.train={runs / 'sst2-some.parquet'}", f"data.shifts.unused={runs / 'sst2-unused.parquet'}", *settings]


def results(task: str) -> dict[str, Any]:
    """What a task came to: scores in %, gains over the best trial in points with their 95 % intervals."""
    sweep = read_sweep(folder(task))
    gains = {}
    for row in read_table(folder(task) / "comparisons.parquet", ComparisonRecord):
        if BEST in (row.method, row.baseline):
            sign = 100 if row.baseline == BEST else -100
            ends = sorted((sign * row.low, sign * row.high))
            other = row.method if row.baseline == BEST else row.baseline
            gains[other] = {"estimate": sign * row.difference, "low": ends[0], "high": ends[1], "p": row.p_value}
    return {
        "metric": METRICS[sweep.run.metric].label,
        "commit": sweep.run.git_commit,
        "machine": sweep.run.machine,
        "champion": sweep.run.champion,
        "theta0": 100 * float(sweep.run.theta0_figures.get("test_score", sweep.run.theta0_figures["test_accuracy"])),
        "cost": sum(row.gpu_hours for row in sweep.ingredients),
        "trials": [
            {**row.hyperparameters, "status": row.status, "test": row.test_score, "gpu_hours": row.gpu_hours}
            for row in sweep.ingredients
        ],
        "soups": {
            name: {
                "selected": row.num_selected,
                "seconds": row.construction_seconds,
                **{split: 100 * float(score(row, split) or 0) for split in ("val", "select", "test")},
                **{split: 100 * value for split, value in row.shift_scores.items()},
            }
            for name, row in sweep.soups.items()
        },
        "gains": gains,
        **({"gains_unused": gains_on(folder(task), list(sweep.soups), "unused")} if task == "sst2" else {}),
    }


def gains_on(root: Path, methods: list[str], shift: str) -> dict[str, Any]:
    """As the gains on the test set, in accuracy on another."""
    correct = {
        method: predicted_images(read_table(root / predictions_of(method), PredictionRecord), shift).correct
        for method in methods
    }
    found = {}
    for method in methods:
        ours, best = correct[method], correct[BEST]
        interval = paired_interval(int((ours & ~best).sum()), int((best & ~ours).sum()), len(best))
        found[method] = {"estimate": 100 * interval.estimate, "low": 100 * interval.low, "high": 100 * interval.high}
    return found


def table(tasks: dict[str, dict[str, Any]]) -> str:
    """A row a method, a column a task: gains over the best trial, and what the paper has of them."""
    columns = [column(name, task) for name, task in tasks.items()]
    if "sst2" in tasks:
        task = tasks["sst2"]
        soups = {name: {"test": soup["unused"]} for name, soup in task["soups"].items()}
        again = column("sst2", {**task, "theta0": None, "soups": soups, "gains": task["gains_unused"]})
        columns.append({name: "" if "paper" in name else cell for name, cell in again.items()})
        columns[-1][""] = "SST-2, 10,000 unused phrases"
    lines = [f"| {name} | {' | '.join(cells[name] for cells in columns)} |" for name in columns[0]]
    return "\n".join([lines[0], f"|---|{'---|' * len(columns)}", *lines[1:]])


def column(name: str, task: dict[str, Any]) -> dict[str, str]:
    """The cells of a task by the name of their row."""
    paper = PAPER[name]
    rows = {
        "": NAMES[name],
        "metric": str(task["metric"]),
        "Starting point (linear probe)": "" if task["theta0"] is None else f"{task['theta0']:.1f}",
        LABELS[BEST]: f"{task['soups'][BEST]['test']:.1f}",
    }
    for method in task["soups"]:
        if method != BEST:
            estimate, low, high = (task["gains"][method][name] + 0.0 for name in ("estimate", "low", "high"))  # no -0.0
            rows[LABELS[method]] = f"{estimate:+.1f} ({low:+.1f} to {high:+.1f})"
    rows["*BERT-base, paper: best of 32*"] = f"{paper[BEST]:.1f}"
    return rows | {f"*paper: {LABELS[method]}*": f"{paper[method]:+.1f}" for method in ("uniform", "greedy")}


if __name__ == "__main__":
    main()
