"""A sweep of 1,000 tiny trials against 10 and 100: what grows with the number of trials, and how.

    python tests/benchmarks/scale.py

Each is `pipeline/run.py` on the digits with trials of some milliseconds, a call per part: search, soups, studies with
the report. Recorded for each part: seconds, and the peak memory of the driver. For the whole: how long the registry
takes to list the trials and ingredients, and what lies on disk.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from recording import record
from sizes import positive, same

from pipeline.registry import find_sweep, list_ingredients, read_trials

ROOT = Path(__file__).resolve().parents[2]
STUDIES = "comparisons,cost-accuracy,elimination,similarity,report"
SETTINGS = (
    "data.pretrain_size=100",
    "data.train_size=100",
    "data.validation_size=100",
    "data.test_size=100",
    "model.contrastive.epochs=1",
    "search.cpus_per_trial=1",
    "search.distributions={lr: {loguniform: [1e-5, 1e-4]}, epochs: 1, batch_size: 100, augmentation: minimal}",
    "soup.methods=[best-individual, uniform, greedy, mehl-plus]",
    "soup.settings={mehl-plus: {block_size: 8, inner_iterations: 4}}",
)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=positive, nargs="+", default=[10, 100, 1000])
    options = parser.parse_args()
    for trials in options.trials:
        with tempfile.TemporaryDirectory() as folder:
            record(f"scale-{trials}", **measure(trials, Path(folder)))


def measure(trials: int, home: Path) -> dict[str, object]:
    """One sweep from its first trial to its report."""
    studies = (
        f"study={{cost_accuracy: {{methods: [greedy], step: {max(trials // 4, 1)}}}, elimination: {{top: [1, 4]}}}}"
    )
    settings = [*SETTINGS, f"search.num_trials={trials}", studies]
    parts = {stages: call(stages, settings, home) for stages in ("search", "soup", STUDIES)}
    output, uri = home / "runs" / "digits", f"sqlite:///{home / 'runs' / 'mlflow.db'}"
    sweep = find_sweep(uri, "digits")
    start = time.perf_counter()
    rows, versions = read_trials(sweep), list_ingredients(sweep)
    listed = time.perf_counter() - start
    same("trials and versions", (len(rows), len(versions)), (trials, trials + 1))
    return {
        "trials": trials,
        "parts": {"studies" if name == STUDIES else name: part for name, part in parts.items()},
        "search_seconds_per_trial": parts["search"]["seconds"] / trials,
        "registry_listing_seconds": listed,
        "bytes": {
            "registry": (home / "runs" / "mlflow.db").stat().st_size,
            "records": size(output),
            "report": (output / "report.html").stat().st_size,
            "all": size(home / "runs"),
        },
    }


def call(stages: str, settings: list[str], home: Path) -> dict[str, float]:
    """Seconds and peak memory (bytes) of one call of the program."""
    config = ["--config", "configs/digits.yaml", "--stages", stages]
    others = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    environment = {key: value for key, value in os.environ.items() if key not in others} | {"PIPELINE_HOME": str(home)}
    start = time.perf_counter()
    with (home / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "pipeline/run.py", *config, *settings], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit((home / "log").read_text()[-4000:])
    return {"seconds": time.perf_counter() - start, "driver_peak_bytes": usage.ru_maxrss * 1024}


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
