"""The cost of a trial over all its attempts, kept where no killed process or lost node takes it away."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pipeline.search.storage import Storage

_TICK_SECONDS = 5


@dataclass(frozen=True)
class Attempt:
    """Wall clock seconds of one attempt, the device that it ran on (``cpu`` or the GPU's name), its node's address."""

    seconds: float
    device: str
    node: str


@contextlib.contextmanager
def timed_attempt(storage: Storage, device: str, node: str) -> Iterator[None]:
    """Count the context as an attempt of the trial that ``storage`` belongs to.

    Each attempt is a small file, written anew every few seconds: a killed attempt counts up to its last ones.
    """
    name = f"attempt-{len(read_attempts(storage)):03d}.json"
    start, over = time.monotonic(), threading.Event()

    def tick() -> None:
        attempt = Attempt(time.monotonic() - start, device, node)
        with storage.writing(name) as file:
            file.write(json.dumps(asdict(attempt)).encode())

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


def read_attempts(storage: Storage) -> list[Attempt]:
    """All attempts of the trial that ``storage`` belongs to, in order."""
    found = []
    for name in storage.names():
        if name.startswith("attempt-") and name.endswith(".json"):
            with storage.reading(name) as file:
                found += [Attempt(**json.load(file))] if file is not None else []
    return found
