"""Time the demo as a newcomer meets it, and keep its figures for the README.

    python tests/benchmarks/demo.py

Runs `python pipeline/run.py --config configs/digits.yaml` as a process of its own with a temporary folder for its
output, then the same command again, and writes `results/demo.json` (command, machine, commit, seconds, figures, what it
printed at the end), and what it printed into the README.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import put_between, record

from pipeline.records import SoupRecord
from pipeline.records.folder import RunFolder, read_run
from pipeline.records.tables import read_table

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    command = ["pipeline/run.py", "--config", "configs/digits.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "runs" / "digits"
        seconds, printed = [], ""
        for _ in range(2):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *command, f"output={output}"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
            )
            seconds.append(round(time.perf_counter() - start, 1))
            print(done.stdout)
            printed = done.stdout.partition("\n\n")[2].replace(f"{folder}/", "").rstrip()  # the same both times
        soups = read_table(output / "soups.parquet", SoupRecord)
        run = read_run(RunFolder(output))
    record(
        "demo",
        seed=run.seed,
        seconds=seconds[0],
        seconds_when_done=seconds[1],
        champion=run.champion,
        theta0=run.theta0_figures,
        soups=[row.model_dump() for row in soups],
        printed=printed,
    )
    put_between(ROOT / "README.md", "demo", f"```text\n{printed}\n```")


if __name__ == "__main__":
    main()
