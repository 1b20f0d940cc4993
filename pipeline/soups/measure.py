"""What building a soup costs: seconds and peak memory, measured alike for every method."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

_STATUS = Path("/proc/self/status")
_SAMPLE_SECONDS = 0.005


@dataclass
class Cost:
    """``peak_memory_kind``: ``cuda`` (the allocator's peak) or ``anon`` (peak of RssAnon over the start)."""

    device: str
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_memory_kind: Literal["cuda", "anon"] = "anon"


@contextmanager
def measured(device: str) -> Iterator[Cost]:
    """Measure the block; the yielded Cost is complete when it ends."""
    cost = Cost(device)
    start = time.perf_counter()
    if torch.device(device).type == "cuda":
        cost.peak_memory_kind = "cuda"
        torch.cuda.reset_peak_memory_stats(device)
        yield cost
        torch.cuda.synchronize(device)
        cost.peak_memory_bytes = torch.cuda.max_memory_allocated(device)
    else:
        before = anonymous_bytes()
        peak = [before]
        stop = threading.Event()
        sampler = threading.Thread(target=_sample, args=(peak, stop), daemon=True)
        sampler.start()
        try:
            yield cost
        finally:
            stop.set()
            sampler.join()
        cost.peak_memory_bytes = max(peak[0], anonymous_bytes()) - before
    cost.seconds = time.perf_counter() - start


def anonymous_bytes() -> int:
    """Anonymous resident memory of this process: without the memory-mapped files that plain RSS counts.

    Where the kernel does not tell (macOS), the largest resident set so far; where nothing does (Windows), 0.
    """
    if _STATUS.exists():
        line = re.search(r"^RssAnon:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if line:
            return int(line[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _sample(peak: list[int], stop: threading.Event) -> None:
    while not stop.wait(_SAMPLE_SECONDS):
        peak[0] = max(peak[0], anonymous_bytes())
