"""What was last read of the registry, for all pages that are open: each thing is read once, however many ask."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.errors import first_line, shortened
from pipeline.registry import Look, WatchedSweep, list_sweeps, look

logger = logging.getLogger(__name__)

_PAUSE = 4.0  # seconds after a read before the next
_SHARE = 9  # a read is followed by a pause of so many times what it took of this processor: at most a tenth of a core
_KEPT = 12  # sweeps
_LONGEST = 300  # letters of what a library says


@dataclass(frozen=True)
class State:
    """What is known: the sweeps, the latest first, and by id those that were asked for and could be read.

    ``stamps`` change with the looks. ``read`` is when that which runs was read (seconds since 1970), ``away`` says why
    that is long ago, None while the registry answers.
    """

    sweeps: tuple[WatchedSweep, ...]
    looks: dict[str, Look]
    stamps: dict[str, int]
    read: float
    away: str | None = None


class _Kept(NamedTuple):
    """A sweep as it was ``read`` last, which is as it was when it got its ``stamp``."""

    look: Look
    stamp: int
    read: float


class Reader:
    """Reads a registry when it is asked to, no more often than `_PAUSE` and `_SHARE` allow.

    While one thread reads, others get what is there; only a sweep that was never read is waited for.
    """

    def __init__(self, tracking_uri: str):
        self.tracking_uri = tracking_uri
        self._reading = threading.Lock()
        self._sweeps: tuple[WatchedSweep, ...] = ()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the last asked for last
        self._numbers = itertools.count()
        self._read = 0.0
        self._away: str | None = None
        self._due = 0.0  # of time.monotonic()

    def first(self) -> None:
        """Read the list, and the latest sweep; raises RegistryError, or what MLflow raises."""
        self._sweeps = tuple(list_sweeps(self.tracking_uri))
        self._read = time.time()
        for sweep in list(self._readable().values())[:1]:
            self._look(sweep)

    def state(self, chosen: Sequence[str], *, anew: bool = False) -> State:
        """What is known of the sweeps with the ids ``chosen``; with ``anew`` read again where it is time for that."""
        missing = [one for one in self._readable() if one in chosen and one not in self._kept]
        if (anew or missing) and self._reading.acquire(blocking=bool(missing)):
            try:
                if (anew and time.monotonic() >= self._due) or any(one not in self._kept for one in missing):
                    self._refresh(chosen)
            finally:
                self._reading.release()
        readable = self._readable()
        there = {one: kept for one in chosen if one in readable and (kept := self._kept.get(one))}
        looks = {one: kept.look for one, kept in there.items()}
        stamps = {one: kept.stamp for one, kept in there.items()}
        read = min((kept.read for kept in there.values() if kept.look.sweep.is_running), default=self._read)
        return State(self._sweeps, looks, stamps, read, self._away)

    def _readable(self) -> dict[str, WatchedSweep]:
        """By id, the latest first."""
        return {sweep.sweep_id: sweep for sweep in self._sweeps if not sweep.unreadable}

    def _refresh(self, chosen: Sequence[str]) -> None:
        start = time.thread_time()
        try:
            self._sweeps = tuple(list_sweeps(self.tracking_uri))
            for one, sweep in self._readable().items():
                if one in chosen:
                    self._look(sweep)
            while len(self._kept) > max(_KEPT, len(chosen)):
                self._kept.popitem(last=False)
            self._read = time.time()
            self._tell(None)
        except Exception as error:  # whatever befalls a store: the page stays, with what was read last
            self._tell(shortened(first_line(error), _LONGEST) or type(error).__name__)
        self._due = time.monotonic() + max(_PAUSE, _SHARE * (time.thread_time() - start))

    def _look(self, sweep: WatchedSweep) -> None:
        """Read a sweep unless it has ended and is as it was read."""
        kept = self._kept.get(sweep.sweep_id)
        if kept is None or sweep.is_running or kept.look.sweep != sweep:
            read = look(sweep, kept.look if kept and sweep.is_running else None)
            stamp = kept.stamp if kept and kept.look == read else next(self._numbers)
            self._kept[sweep.sweep_id] = _Kept(read, stamp, time.time())
        self._kept.move_to_end(sweep.sweep_id)

    def _tell(self, away: str | None) -> None:
        """Say in the log when the registry goes away, and when it is back: a line each."""
        if away and not self._away:
            logger.warning("%s; the page shows what was read last", away)
        elif self._away and not away:
            logger.info("the registry answers again")
        self._away = away
