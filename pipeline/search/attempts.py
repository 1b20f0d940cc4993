"""The cost of a trial over all its attempts, kept on disk so that no killed process loses it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICK_SECONDS = 5


@dataclass(frozen=True)
class Attempt:
    """Wall clock seconds of one attempt and the device that it ran on (``cpu`` or the GPU's name)."""

    seconds: float
    device: str


@contextlib.contextmanager
def timed_attempt(folder: Path, device: str) -> Iterator[None]:
    """Count the context as an attempt of the trial that ``folder`` belongs to.

    Each attempt is a small file, written anew every few seconds: a killed attempt counts up to its last ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"attempt-{len(read_attempts(folder)):03d}.json"
    start, over = time.monotonic(), threading.Event()

    def tick() -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"seconds": time.monotonic() - start, "device": device}), encoding="utf-8")
        partial.replace(path)

    def keep_ticking() -> None:
        while not over.wait(_TICK_SECONDS):
            with contextlib.suppress(OSError):  # a full disk: the trial itself will tell
                tick()

    tick()
    ticks = threading.Thread(target=keep_ticking, daemon=True)
    ticks.start()
    try:
        yield
    finally:
        over.set()
        ticks.join()
        tick()


def read_attempts(folder: Path) -> list[Attempt]:
    """All attempts of the trial that ``folder`` belongs to, in order."""
    return [Attempt(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("attempt-*.json"))]
