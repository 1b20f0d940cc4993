"""The cost of a trial over all its attempts, kept on disk so that no killed process loses it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Attempt:
    """Wall clock seconds of one attempt and the device that it ran on (``cpu`` or the GPU's name)."""

    seconds: float
    device: str


class AttemptClock:
    """Times one attempt of a trial: from its creation to the last `tick`.

    Each attempt is a small file in the trial's folder. A killed attempt counts up to its last tick, which is the last
    finished epoch.
    """

    def __init__(self, folder: Path, device: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._start = time.time()
        self._device = device
        self._path = folder / f"attempt-{len(read_attempts(folder)):03d}.json"
        self.tick()

    def tick(self) -> None:
        """Record that the attempt is alive now."""
        attempt = {"seconds": time.time() - self._start, "device": self._device}
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(attempt), encoding="utf-8")
        partial.replace(self._path)


def read_attempts(folder: Path) -> list[Attempt]:
    """All attempts of the trial that ``folder`` belongs to, in order."""
    return [Attempt(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("attempt-*.json"))]
