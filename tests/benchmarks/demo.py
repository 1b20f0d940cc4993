"""Time the demo as a newcomer meets it, and keep its figures for the README.

    python tests/benchmarks/demo.py

Runs `python pipeline/run.py --config configs/digits.yaml` as a process of its own in a temporary folder, then the same
command again, and writes `results/demo.json` (command, machine, commit, seconds, table) and `results/demo.svg` (the
cost curve of that run). Prints the README's table.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import RESULTS, record

from pipeline.records import SoupRecord
from pipeline.records.folder import RunFolder, read_run
from pipeline.records.tables import read_table

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    command = ["pipeline/run.py", "--config", "configs/digits.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "runs" / "digits"
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command, f"output={output}"], cwd=ROOT, check=True)
            seconds.append(round(time.perf_counter() - start, 1))
        soups = read_table(output / "soups.parquet", SoupRecord)
        run = read_run(RunFolder(output))
        shutil.copyfile(output / "figures" / "cost_accuracy.svg", RESULTS / "demo.svg")
    record(
        "demo",
        seed=run.seed,
        seconds=seconds[0],
        seconds_when_done=seconds[1],
        champion=run.champion,
        theta0=run.theta0_figures,
        soups=[row.model_dump() for row in soups],
    )
    print("\n| method | validation % | select % | test % | ingredients used | construction | peak memory |")
    print("|---|---|---|---|---|---|---|")
    start = [f"{100 * run.theta0_figures[f'{split}_accuracy']:.2f}" for split in ("val", "select", "test")]
    print(f"| theta0 | {' | '.join(start)} | - | - | - |")
    for row in soups:
        star = " ★" if row.method == run.champion else ""
        print(
            f"| {row.method}{star} | {100 * row.val_accuracy:.2f} | {100 * (row.select_accuracy or 0):.2f} "
            f"| {100 * row.test_accuracy:.2f} | {row.num_selected} of {row.num_ingredients} "
            f"| {row.construction_seconds:.1f} s | {row.peak_memory_bytes / 2**20:.1f} MiB |"
        )
    print(f"\n{seconds[0]} s, again {seconds[1]} s, on {run.machine}, commit {run.git_commit}")


if __name__ == "__main__":
    main()
