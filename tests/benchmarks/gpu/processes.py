"""Processes of their own: for a peak of memory, a seed or a limit that nothing else has a part in."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

BENCHMARKS = Path(__file__).resolve().parents[1]
T = TypeVar("T")


def in_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function of a module in a process of its own; raises what it raises."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def run_script(name: str, *arguments: object) -> dict[str, Any]:
    """Run the benchmark ``name`` with these arguments; returns its record, which is kept nowhere else."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, arguments)]
        environment = os.environ | {"BENCHMARK_RESULTS": folder}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {last_error(done.stderr) or f'exit status {done.returncode}'}")
        (record,) = Path(folder).iterdir()
        return json.loads(record.read_text(encoding="utf-8"))


def last_error(text: str) -> str:
    """The last line that names an error, whose text may have more lines; else the last one that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception|BrokenProcessPool)\b", line)]
    return [*lines, *errors][-1] if lines else ""


@contextmanager
def told(name: str) -> Iterator[list[str]]:
    """What the logger ``name`` says meanwhile."""
    messages: list[str] = []
    logger, handler = logging.getLogger(name), logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


# What follows does nothing on a CPU, so that tests run the code around it.


def limit_memory(device: str, num_bytes: float) -> None:
    """Let this process allocate no more of the GPU: beyond that it is out of memory."""
    if device != "cpu":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(num_bytes / total, 1.0))


def reserved_bytes(device: str) -> int:
    """The most that PyTorch held of the GPU since its peak was last reset."""
    return 0 if device == "cpu" else torch.cuda.max_memory_reserved(device)


def finish(device: str) -> None:
    """Wait for the GPU."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def stop_at_waits(device: str, stop: bool) -> None:
    """Whether whatever makes the host wait for the GPU is an error."""
    if device != "cpu":
        torch.cuda.set_sync_debug_mode("error" if stop else "default")
