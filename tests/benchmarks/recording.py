"""Where benchmarks leave what they measured: `results/NAME.json`, with command, machine, commit and versions."""

import json
import sys
from pathlib import Path

from pipeline.provenance import git_commit, library_versions, machine

RESULTS = Path(__file__).parent / "results"


def record(name: str, device: str = "cpu", **result: object) -> None:
    """Write `results/NAME.json` and print it. ``device`` is a torch device; a GPU is added to the machine."""
    where = machine()
    if device != "cpu":
        import torch

        where = f"{torch.cuda.get_device_name(device)}; {where}"
    origin = {
        "command": " ".join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": where,
        "commit": git_commit(),
        "versions": library_versions(),
    }
    text = json.dumps(origin | result, indent=1)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(text)
