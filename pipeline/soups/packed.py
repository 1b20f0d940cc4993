"""A (b, numel) matrix of directions kept in a smaller type; products are always taken in the full one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

DeltaDtype = Literal["float32", "bfloat16", "int8"]
DELTA_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

# Columns unpacked at a time: few enough to stay in a CPU's cache, many enough to keep a GPU busy.
_CPU_COLUMNS, _CUDA_COLUMNS = 1 << 16, 1 << 20


def storage_type(name: str | None) -> torch.dtype | None:
    """The torch type of a ``delta_dtype``."""
    return None if name is None else DELTA_DTYPES[name]


@dataclass(frozen=True)
class Packed:
    """A matrix in the stored type, which is unpacked to the full one a few columns at a time.

    Attributes:
        rows: (b, numel).
        quantum: With int8 (b,): row k stands for ``quantum[k] * rows[k]``. None for other types.
    """

    rows: Tensor
    quantum: Tensor | None

    @classmethod
    def empty(cls, count: int, like: Tensor, dtype: torch.dtype) -> Packed:
        """A matrix to fill with ``count`` flattened tensors shaped as ``like``, on its device."""
        rows = torch.empty(count, like.numel(), dtype=dtype, device=like.device)
        quantum = torch.ones(count, dtype=like.dtype, device=like.device) if dtype == torch.int8 else None
        return cls(rows, quantum)

    def set_row(self, k: int, values: Tensor, centre: Tensor | None) -> None:
        """Store one direction values - centre, rounded to nearest; int8 spans its largest entry by 127 steps."""
        row = self.rows[k]
        step: Tensor | None = None
        if self.quantum is not None:
            largest = max((float(piece.abs().max()) for _, piece in self._direction(values, centre)), default=0.0)
            self.quantum[k] = largest / 127 if largest > 0 else 1.0
            step = self.quantum[k]
        for columns, piece in self._direction(values, centre):
            row[columns].copy_(piece if step is None else (piece / step).round_())

    def _direction(self, values: Tensor, centre: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        """values - centre, a few columns at a time."""
        for columns in self._pieces():
            yield columns, values[columns] if centre is None else values[columns] - centre[columns]

    def add_to(self, fixed: Tensor, weight: Tensor, out: Tensor) -> None:
        """Write fixed + sum_k weight_k row_k into ``out``; all vectors are flat and of the full type."""
        if self.rows.dtype == out.dtype:
            torch.addmv(fixed, self.rows.t(), weight, out=out)
            return
        weight = weight if self.quantum is None else weight * self.quantum
        for columns, piece in self._unpacked(out.dtype):
            torch.addmv(fixed[columns], piece.t(), weight, out=out[columns])

    def dot(self, vector: Tensor) -> Tensor:
        """Inner products (b,) of the rows with a flat vector of the full type."""
        if self.rows.dtype == vector.dtype:
            return self.rows.mv(vector)
        total = vector.new_zeros(len(self.rows))
        for columns, piece in self._unpacked(vector.dtype):
            total += piece.mv(vector[columns])
        return total if self.quantum is None else total * self.quantum

    def square_norms(self, dtype: torch.dtype) -> Tensor:
        """Squared length (b,) of each row."""
        total = torch.zeros(len(self.rows), dtype=dtype, device=self.rows.device)
        for _, piece in self._unpacked(dtype):
            total += piece.square_().sum(dim=1)
        return total if self.quantum is None else total * self.quantum.square()

    def _unpacked(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Pieces in ``dtype``, each in the memory of the one before: fresh memory would cost more than the product."""
        pieces = self._pieces()
        width = pieces[0].stop if len(pieces) > 1 else self.rows.shape[1]
        buffer = torch.empty(len(self.rows), width, dtype=dtype, device=self.rows.device)
        for columns in pieces:
            part = self.rows[:, columns]
            yield columns, buffer[:, : part.shape[1]].copy_(part)

    def _pieces(self) -> list[slice]:
        size = _CUDA_COLUMNS if self.rows.is_cuda else _CPU_COLUMNS
        return [slice(start, start + size) for start in range(0, self.rows.shape[1], size)]
