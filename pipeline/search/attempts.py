"""The cost of a trial over all its attempts, kept where no killed process or lost node takes it away."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from pipeline.search.storage import Storage, StoreAway

_TICK_SECONDS = 5


@dataclass(frozen=True)
class Attempt:
    """Wall clock seconds of one attempt, and what it ran on.

    ``device`` is ``cpu`` or the GPU's name, ``reserved`` how many GPUs (else CPU cores) it had, ``node`` an address.
    """

    device: str
    reserved: float
    node: str
    seconds: float = 0.0

    @property
    def hours(self) -> float:
        """Hours of one GPU (else CPU core)."""
        return self.seconds / 3600 * self.reserved


@contextlib.contextmanager
def timed_attempt(storage: Storage, device: str, reserved: float, node: str) -> Iterator[None]:
    """Count the context as an attempt of the trial that ``storage`` belongs to.

    Each attempt is a small file, written anew every few seconds: a killed attempt counts up to its last ones.
    """
    # Names sort by time and are never used twice. The file is written by one thread at a time: by the caller's as the
    # context begins, by `ticker` while the caller works in it, and by the caller's once more when `ticker` has ended.
    file_name = f"attempt-{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
    start, has_ended = time.monotonic(), threading.Event()

    def tick() -> None:
        attempt = Attempt(device, reserved, node, time.monotonic() - start)
        # A store that is away for a moment has the next tick.
        with contextlib.suppress(StoreAway), storage.writing(file_name) as file:
            file.write(json.dumps(asdict(attempt)).encode())

    def keep_ticking() -> None:
        while not has_ended.wait(_TICK_SECONDS):  # wakes at once when it is set, so no attempt waits for its end
            with contextlib.suppress(Exception):  # a full disk: the trial itself will tell
                tick()

    tick()
    ticker = threading.Thread(target=keep_ticking, daemon=True)  # dies with the process: that attempt has ended
    ticker.start()
    try:
        yield
    finally:
        has_ended.set()
        ticker.join()
        tick()


def read_attempts(storage: Storage) -> list[Attempt]:
    """All attempts of the trial that ``storage`` belongs to, in order."""
    attempts: list[Attempt] = []
    for name in storage.names():
        if name.startswith("attempt-"):
            with storage.reading(name) as file:
                attempts += [Attempt(**json.load(file))] if file is not None else []
    return attempts
