"""Where benchmarks leave what they measured: `results/NAME.json`, with command, machine, commit and versions.

`BENCHMARK_RESULTS` in the environment names another folder.
"""

import json
import os
import re
import sys
from pathlib import Path

from pipeline.provenance import git_commit, library_versions, machine

RESULTS = Path(__file__).parent / "results"


def record(name: str, device: str = "cpu", **result: object) -> None:
    """Write `results/NAME.json` and print it."""
    print(write(name, origin(device) | result))


def origin(device: str) -> dict[str, object]:
    """What made a result. ``device`` is a torch device; a GPU is added to the machine."""
    where = machine()
    if device != "cpu":
        import torch

        where = f"{torch.cuda.get_device_name(device)}; {where}"
    return {
        "command": " ".join(["python", f"tests/benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "machine": where,
        "commit": git_commit(),
        "versions": library_versions(),
    }


def write(name: str, result: dict[str, object]) -> str:
    """Write a record; returns its text."""
    text = json.dumps(result, indent=1)
    path = path_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return text


def path_of(name: str) -> Path:
    """Where a record is."""
    return Path(os.environ.get("BENCHMARK_RESULTS", RESULTS)) / f"{name}.json"


def put_between(path: Path, mark: str, text: str) -> None:
    """Put ``text`` between the lines ``<!-- mark -->`` and ``<!-- /mark -->`` of a page."""
    marks = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    page = path.read_text(encoding="utf-8")
    partial = path.with_suffix(".partial")
    partial.write_text(marks.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page), encoding="utf-8")
    partial.replace(path)
