"""Batches on their way from the host to a device: a thread gathers the next one while the device is at work on one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import torch
from torch import Tensor

_ALIGNED = 512  # bytes from which on the parts of a batch start, as tensors of CUDA's allocator do


@dataclass(frozen=True)
class Rows:
    """The rows ``index`` (m,) of a tensor (n, ...) on the CPU: a part (m, ...) of a batch that is not gathered yet."""

    tensor: Tensor
    index: Tensor

    @property
    def shape(self) -> torch.Size:
        """(m, ...)."""
        return self.index.shape + self.tensor.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """That of the tensor."""
        return self.tensor.dtype


Part: TypeAlias = Tensor | Rows


class Feed:
    """``batches`` on the device, one after the other; each is valid until the next one is asked for.

    A batch is a tuple, of tuples too, whose CPU tensors and `Rows` come out as tensors on the device; all else passes.
    For CUDA a thread takes the batches from their source, gathers each into one of two buffers of pinned memory and
    copies it, as a whole, into one of two on the device, on a stream of its own: one batch is on its way while one is
    worked on. What is raised there is raised here. Where the iteration is left early, the thread ends and the buffers
    go as the iterator does (`contextlib.closing` does not leave that to the garbage collector). On a CPU, which has no
    time to spare, batches are gathered when they are asked for.

    Attributes:
        waited_seconds: So far, in which the device had nothing to do because a batch was not there.
    """

    def __init__(self, batches: Iterable[Any], device: torch.device | str) -> None:
        self.batches, self.device, self.waited_seconds = batches, torch.device(device), 0.0

    def __iter__(self) -> Generator[Any]:
        return self._ahead() if self.device.type == "cuda" else self._in_line()

    def _in_line(self) -> Generator[Any]:
        source = iter(self.batches)
        while True:
            asked = time.perf_counter()
            batch = _mapped(lambda part: _gathered(part).to(self.device), next(source, None))
            self.waited_seconds += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def _ahead(self) -> Generator[Any]:
        source, copies = iter(self.batches), torch.cuda.Stream(self.device)
        room, other = _Room(self.device, copies), _Room(self.device, copies)
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as thread:
            asked = time.perf_counter()
            batch = thread.submit(self._load, source, room, other).result()
            self.waited_seconds += time.perf_counter() - asked
            while batch is not None:
                coming = thread.submit(self._load, source, other, room)
                room.lend(torch.cuda.current_stream(self.device))
                yield batch
                room.take_back(torch.cuda.current_stream(self.device))
                batch = coming.result()
                room, other = other, room

    def _load(self, source: Iterator[Any], room: _Room, before: _Room) -> Any:
        """In the thread: the next batch, in ``room``, or None; the one before it is in the other room.

        It comes when the device is done with the batch before that one, so that the host is no more than a step ahead.
        """
        with torch.cuda.device(room.staged.device):  # a thread begins on the first one
            batch = next(source, None)
            if batch is not None:
                batch = room.load(batch)
            if room.used is not None:
                room.used.synchronize()
                before.copied.synchronize()
                self.waited_seconds += max(0.0, room.used.elapsed_time(before.copied)) / 1000
            return batch


class _Room:
    """For a batch: pinned memory, and as much on the device, each a row of bytes that grows as batches do."""

    def __init__(self, device: torch.device, copies: torch.cuda.Stream) -> None:
        self.copies = copies
        self.pinned = torch.empty(0, dtype=torch.uint8)
        self.staged = torch.empty(0, dtype=torch.uint8, device=device)
        self.copied = _event()  # the batch has left the pinned memory
        self.used: torch.cuda.Event | None = None  # what is on the device is not needed any more

    def load(self, batch: Any) -> Any:
        """Gather the batch and begin to copy it; the result, on the device, is valid after `lend`."""
        parts: list[Part] = []
        _mapped(parts.append, batch)
        *starts, size = accumulate((math.ceil(_bytes(part) / _ALIGNED) * _ALIGNED for part in parts), initial=0)
        self.copied.synchronize()
        if self.pinned.numel() < size:
            self.pinned = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        for part, start in zip(parts, starts, strict=True):
            _gathered(part, _piece(self.pinned, start, part))
        with torch.cuda.stream(self.copies):
            if self.used is not None:
                self.copies.wait_event(self.used)
            if self.staged.numel() < size:
                self.staged = torch.empty(size, dtype=torch.uint8, device=self.staged.device)
            self.staged[:size].copy_(self.pinned[:size], non_blocking=True)
            self.copied.record(self.copies)
        pieces = iter([_piece(self.staged, start, part) for part, start in zip(parts, starts, strict=True)])
        return _mapped(lambda part: next(pieces), batch)

    def lend(self, work: torch.cuda.Stream) -> None:
        """What ``work`` is given from now on finds the batch there."""
        work.wait_event(self.copied)
        self.staged.record_stream(work)

    def take_back(self, work: torch.cuda.Stream) -> None:
        """What ``work`` is given from now on does not need the batch."""
        self.used = _event()
        self.used.record(work)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True, blocking=True)


def _mapped(function: Callable[[Any], Any], batch: Any) -> Any:
    """The batch with ``function`` of its parts in their place, from first to last."""
    if isinstance(batch, Rows) or (isinstance(batch, Tensor) and batch.device.type == "cpu"):
        return function(batch)
    if isinstance(batch, tuple):
        values = [_mapped(function, value) for value in batch]
        return type(batch)(*values) if hasattr(batch, "_fields") else tuple(values)
    return batch


def _gathered(part: Part, out: Tensor | None = None) -> Tensor:
    """The part in ``out``, or where it is not given in memory of its own if it has to be gathered."""
    if isinstance(part, Rows):
        return torch.index_select(part.tensor, 0, part.index, out=out)
    return part if out is None else out.copy_(part)


def _bytes(part: Part) -> int:
    return part.shape.numel() * part.dtype.itemsize


def _piece(memory: Tensor, start: int, part: Part) -> Tensor:
    """Room for the part in ``memory``, a row of bytes."""
    return memory[start : start + _bytes(part)].view(part.dtype).view(part.shape)
