"""What building a soup costs: seconds and peak memory, measured alike for every method."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

import torch

_STATUS = Path("/proc/self/status")
_SAMPLE_SECONDS = 0.005


class Cost:
    """Seconds and peak memory of a `measured` block up to the last `update`, with those of earlier attempts added.

    Attributes:
        device: What the block computes on.
        seconds: Wall clock time.
        peak_memory_bytes: See ``peak_memory_kind``.
        peak_memory_kind: ``cuda`` (the allocator's peak, what was there before the block included) or ``anon`` (the
            peak of RssAnon over that at the start).
        peak_reserved_bytes: On CUDA the peak of what the allocator held, which fragmentation makes more than it had
            given out; None elsewhere. The context of CUDA itself, about half a GiB, is in neither.
    """

    def __init__(self, device: str, enclosing: Cost | None = None) -> None:
        self.device, self.enclosing = device, enclosing
        self.seconds, self.peak_memory_bytes = 0.0, 0
        self.peak_memory_kind: Literal["cuda", "anon"] = "cuda" if torch.device(device).type == "cuda" else "anon"
        self.peak_reserved_bytes: int | None = 0 if self.peak_memory_kind == "cuda" else None
        self._updated = time.perf_counter()
        self._start_bytes = self._sampled_bytes = anonymous_bytes()
        if self.peak_memory_kind == "cuda":
            while enclosing is not None:  # all open blocks take the allocator's peak so far, which is forgotten then
                enclosing.update()
                enclosing = enclosing.enclosing
            torch.cuda.reset_peak_memory_stats(device)

    def update(self) -> None:
        """Count what has been spent since the start or the last update."""
        if self.peak_memory_kind == "cuda":
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device)
            self._reserved(torch.cuda.max_memory_reserved(self.device))
        else:
            peak = max(self._sampled_bytes, anonymous_bytes()) - self._start_bytes
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak)
        now = time.perf_counter()
        self.seconds += now - self._updated
        self._updated = now

    def add_earlier(self, seconds: float, peak_memory_bytes: int, peak_reserved_bytes: int | None) -> None:
        """Count an earlier attempt that this one goes on from: here and in the blocks around this one."""
        self.seconds += seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_memory_bytes)
        self._reserved(peak_reserved_bytes)
        if self.enclosing is not None:
            self.enclosing.add_earlier(seconds, peak_memory_bytes, peak_reserved_bytes)

    def _reserved(self, num_bytes: int | None) -> None:
        if self.peak_reserved_bytes is not None:
            self.peak_reserved_bytes = max(self.peak_reserved_bytes, num_bytes or 0)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Look at the memory every few milliseconds meanwhile: no allocator of the CPU tells its peak."""
        stop = threading.Event()

        def sample() -> None:
            while not stop.wait(_SAMPLE_SECONDS):
                self._sampled_bytes = max(self._sampled_bytes, anonymous_bytes())

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            yield
        finally:
            stop.set()
            sampler.join()


# Blocks may be nested: METHODS measures the whole of a method, whose function measures itself.
_INNERMOST: ContextVar[Cost | None] = ContextVar("innermost", default=None)


@contextmanager
def measured(device: str) -> Iterator[Cost]:
    """Measure the block; the yielded Cost is complete when it ends."""
    cost = Cost(device, enclosing=_INNERMOST.get())
    innermost = _INNERMOST.set(cost)
    try:
        with nullcontext() if cost.peak_memory_kind == "cuda" else cost.sampling():
            yield cost
    finally:
        _INNERMOST.reset(innermost)
    cost.update()


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
