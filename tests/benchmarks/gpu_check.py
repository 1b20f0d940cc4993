"""What the project promises for a GPU, looked at on one: `make gpu-check`, or without an installation

    python tests/benchmarks/gpu_check.py [--quick] [PART ...]

Prints a line `PASS|FAIL|SKIP  what  measured  aim` for each thing that it looks at; exits with 1 if any failed, with 2
where no GPU is. Each part (their names are PARTS below) is a process of its own, with a limit of its time; one that
breaks has failed, and the others go on. One that needs a package that is not there is skipped. What was found is kept
in `results/gpu_check-GPU.json` as soon as its part has ended, so that a run may be done in several calls.

Needs PyTorch, torchvision, safetensors, NumPy and Pillow, and 30 GiB on the disk of $TMPDIR: parts share 72 files of
353 MB, float32 weights with noise that is drawn on the GPU. Fine-tuning needs pydantic, PyYAML and pyarrow besides, and
what Ray shares out needs Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]  # also where nothing is installed

import torch  # noqa: E402
from gpu import full_size, memory, methods, repeat, sharing, speed, step  # noqa: E402
from gpu.lines import Line, Scale  # noqa: E402
from gpu.processes import last_error  # noqa: E402
from recording import origin, path_of, write  # noqa: E402


@dataclass(frozen=True)
class Part:
    """Something to look at, and the seconds after which it has failed."""

    look: Callable[[str, Scale, Path], Iterator[Line]]
    limit: int


PARTS = {
    "methods": Part(methods.against_cpu, 120),
    "same-soup": Part(repeat.same_soup, 120),
    "same-trial": Part(repeat.same_trial, 120),
    "same-seed-cost": Part(repeat.cost, 120),
    "waits": Part(step.without_waits, 90),
    "launches": Part(step.launches, 90),
    "step": Part(full_size.step, 150),
    "whole": Part(full_size.whole, 400),
    "budgets": Part(memory.budgets, 240),
    "out-of-memory": Part(memory.out_of_memory, 120),
    "scoring": Part(speed.scoring, 90),
    "fine-tuning": Part(speed.fine_tuning, 120),
    "greedy": Part(full_size.greedy, 150),
    "assignment": Part(sharing.assignment, 120),
    "crowded-trials": Part(sharing.crowded_trials, 180),
}
_MARK = "line: "  # of what a part tells: libraries print, too


def main() -> None:
    """Look at all parts, or run one of them for that."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    parser.add_argument("--quick", dest="scale", action="store_const", const="quick", default="full")
    # For tests, and for the processes of the parts.
    parser.add_argument("--tiny", dest="scale", action="store_const", const="tiny", help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--in-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]}; there are {', '.join(PARTS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        print(f"error: PyTorch {torch.__version__} finds no CUDA device; run this where there is one", file=sys.stderr)
        sys.exit(2)
    if options.in_folder:
        tell(options.parts[0], options.device, options.scale, options.in_folder)
    else:
        sys.exit(check(options.parts or list(PARTS), options.device, options.scale))


def check(names: Sequence[str], device: str, scale: Scale) -> int:
    """Look at these parts, print and record what is found; returns the exit status."""
    gpu = "cpu" if device == "cpu" else torch.cuda.get_device_name()
    record = "gpu_check-" + re.sub(r"\W+", "-", gpu.lower()).strip("-") + ("" if scale == "full" else f"-{scale}")
    found: list[Line] = []
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        for name in names:
            begun, lines = time.monotonic(), []
            command = [sys.executable, __file__, name, "--in-folder", folder, "--device", device]
            for line in lines_of(name, [*command, *([] if scale == "full" else [f"--{scale}"])], PARTS[name].limit):
                print(line, flush=True)
                lines.append(line)
            keep(record, device, name, time.monotonic() - begun, lines)
            found += lines
    count = {verdict: sum(line.verdict == verdict for line in found) for verdict in ("PASS", "FAIL", "SKIP")}
    counted = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
    print(f"{counted} in {time.monotonic() - start:.0f} s on {gpu}; recorded in {path_of(record)}")
    return 1 if count["FAIL"] else 0


def keep(record: str, device: str, name: str, seconds: float, lines: Sequence[Line]) -> None:
    """Put what a part found into the record, in place of what it found before."""
    path = path_of(record)
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else {}
    parts[name] = {**origin(device), "seconds": round(seconds, 1), "lines": [asdict(line) for line in lines]}
    write(record, {"parts": {each: parts[each] for each in PARTS if each in parts}})


def lines_of(name: str, command: Sequence[str], limit: float) -> Iterator[Line]:
    """What the process of a part tells; one more line where it breaks or takes longer than ``limit`` seconds."""
    folders = [str(ROOT), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        )
        assert process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            end_all(process.pid)

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            for text in process.stdout:
                if text.startswith(_MARK):
                    yield Line(**json.loads(text.removeprefix(_MARK)))
            status = process.wait()
        finally:
            timer.cancel()
            end_all(process.pid)  # what it has left behind
        said.seek(0)
        if late.is_set():
            yield Line("FAIL", name, f"not done after {limit:g} s", "it ends")
        elif status:
            yield Line("FAIL", name, last_error(said.read()) or f"exit status {status}", "it ends")


def end_all(group: int) -> None:
    """End the processes of a part that are still there."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def tell(name: str, device: str, scale: Scale, folder: Path) -> None:
    """Look at a part and print its lines for `lines_of`."""
    try:
        for line in PARTS[name].look(device, scale, folder):
            print(_MARK + json.dumps(asdict(line)), flush=True)
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing == "pipeline":
            raise
        print(_MARK + json.dumps(asdict(Line("SKIP", name, f"the package {missing} is not here"))), flush=True)


if __name__ == "__main__":
    main()
