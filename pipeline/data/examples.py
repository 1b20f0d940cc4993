"""Sets of encoded examples in memory, and what training asks of a set."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pipeline.metrics import ACCURACY
from pipeline.precision import Precision
from pipeline.records import SplitRecord

# Examples (N, ...), as their kind encodes them, and their class numbers, int64 (N,), on the CPU; never write to them.
Batch: TypeAlias = tuple[torch.Tensor, torch.Tensor]
# Of a tensor (N, ...) the rows with these indices (B,): a tensor (B, ...), or what will become one.
Gather: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Any]

_DEALT = 16  # batches that examples of like length are sought among: few, so that no epoch repeats those of another


class TrainingExamples(Protocol):
    """The examples that trials are fine-tuned on: in memory (`ExampleSet`) or streamed from the store."""

    def __len__(self) -> int:
        """How many there are."""
        ...

    def epoch(self, batch_size: int, seed: int, gather: Gather = torch.Tensor.__getitem__) -> Iterator[tuple[Any, Any]]:
        """Every one once, in an order that follows from ``seed``, in batches of nearly ``batch_size``, never more.

        Where batches are gathered from tensors in memory, ``gather`` does it.
        """
        ...

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """Every one once, in an order that is always the same, in batches of at most ``batch_size``."""
        ...

    def sample(self, count: int) -> torch.Tensor:
        """Examples of all classes, always the same, ``count`` of them if there are so many."""
        ...


@dataclass(frozen=True, eq=False)
class ExampleSet:
    """Examples (N, ...), as their kind encodes them, in random order; and their class numbers, int64 (N,).

    Where examples (N, T, ...) differ in length, ``lengths`` (N,) says after how many of T each has nothing but padding:
    the batches of an epoch are then of examples of nearly equal length, and no longer than the longest of them. The
    arrays may be read-only: those that come out of Ray's object store are shared between processes.
    """

    inputs: npt.NDArray[Any]
    labels: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> Batch:
        """Examples and labels as CPU tensors over the same memory; never write to them."""
        with warnings.catch_warnings():
            # torch has no read-only tensors and warns about every read-only array.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            return torch.from_numpy(self.inputs), torch.from_numpy(self.labels)

    def epoch(self, batch_size: int, seed: int, gather: Gather = torch.Tensor.__getitem__) -> Iterator[tuple[Any, Any]]:
        """See `TrainingExamples`."""
        inputs, labels = self.tensors()
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator)
        # Of nearly equal size: BatchNorm cannot train on a last batch of one.
        batches = order.tensor_split(math.ceil(len(self) / batch_size))
        lengths = None if self.lengths is None else torch.from_numpy(self.lengths.copy())
        for index in batches if lengths is None else _of_like_length(batches, lengths, generator):
            without_padding = inputs if lengths is None else inputs[:, : lengths[index].max()]
            yield gather(without_padding, index), gather(labels, index)

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """See `TrainingExamples`."""
        inputs, labels = self.tensors()
        yield from zip(inputs.split(batch_size), labels.split(batch_size), strict=True)

    def sample(self, count: int) -> torch.Tensor:
        """See `TrainingExamples`."""
        return self.tensors()[0][:count]


def _of_like_length(
    batches: Sequence[torch.Tensor], lengths: torch.Tensor, generator: torch.Generator
) -> list[torch.Tensor]:
    """The indices of ``batches`` dealt out again: those of every few batches by length, then the batches shuffled."""
    dealt: list[torch.Tensor] = []
    for start in range(0, len(batches), _DEALT):
        some = list(batches[start : start + _DEALT])
        index = torch.cat(some)
        dealt += index[lengths[index].argsort(stable=True)].split([len(batch) for batch in some])
    return [dealt[i] for i in torch.randperm(len(dealt), generator=generator)]


@dataclass(frozen=True, eq=False)
class Splits:
    """The examples of a run; which split may be used for what is said in `pipeline.data.splits`.

    ``select`` may be empty, ``pretrain`` is None where no size was asked for. ``shifts`` are other test sets by name.
    ``records`` has an entry for each split that exists. ``precision`` is what models compute in that are measured on
    them; None: see `pipeline.precision.resolved`. ``metric`` is the name in METRICS of what decides, ``kind`` says in
    `KINDS` what the examples are.
    """

    pretrain: ExampleSet | None
    train: TrainingExamples
    fit: ExampleSet
    select: ExampleSet
    test: ExampleSet
    class_names: tuple[str, ...]
    records: tuple[SplitRecord, ...]
    shifts: Mapping[str, ExampleSet] = field(default_factory=dict)
    precision: Precision | None = None
    metric: str = ACCURACY
    kind: str = "images"

    def measured(self) -> dict[str, ExampleSet]:
        """By name the sets that soups are measured on."""
        return {"fit": self.fit, "select": self.select, "test": self.test, **self.shifts}
