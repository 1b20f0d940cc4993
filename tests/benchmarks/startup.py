"""How long the commands take before they do anything, and what they take in memory.

    python tests/benchmarks/startup.py [--repo DIR]

Starts each a few times as a process of its own and keeps the fastest; the empty interpreter of the same run is the unit
of the ratios. Writes `results/startup.json`; with ``--repo`` it measures another checkout of the project, an older one,
say, with this environment, and prints only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from recording import record

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 5
PARTS = {
    "an empty interpreter": ["-c", "pass"],
    "python -m pipeline --help": ["-m", "pipeline", "--help"],
    "python -m pipeline run --help": ["-m", "pipeline", "run", "--help"],
    "import pipeline.studies": ["-c", "import pipeline.studies"],
}


def main() -> None:
    """Measure, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, default=ROOT)
    repo = parser.parse_args().repo.resolve()
    parts = {name: measure(arguments, repo) for name, arguments in PARTS.items()}
    unit = parts["an empty interpreter"]["seconds"]
    for part in parts.values():
        part["times_empty"] = round(part["seconds"] / unit, 1)
    package = sorted((repo / "pipeline").glob("*.py"))
    lines = sum(len(path.read_text().splitlines()) for path in (repo / "pipeline").rglob("*.py"))
    result = {"parts": parts, "modules_at_the_top": len(package), "lines": lines}
    if repo == ROOT:
        record("startup", **result)
    else:
        print(json.dumps(result, indent=1))


def measure(arguments: list[str], repo: Path) -> dict[str, float]:
    """The fastest of some runs in seconds, and the largest resident memory of any."""
    fastest, peak = float("inf"), 0
    for _ in range(REPEATS):
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=repo,
            env={**os.environ, "PYTHONPATH": str(repo)},
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        assert status == 0, arguments
        fastest, peak = min(fastest, seconds), max(peak, usage.ru_maxrss)
    scale = 1 if sys.platform == "darwin" else 1024
    return {"seconds": round(fastest, 3), "peak_mib": round(peak * scale / 2**20)}


if __name__ == "__main__":
    main()
