"""Directions of a block as one matrix (b, N) in a smaller type; products with it are taken in the full one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.soups.flat import Layout
from pipeline.soups.kernels import chunk_table, mix, project

DeltaDtype = Literal["float32", "bfloat16", "int8"]
DELTA_DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}

# Entries of a direction that are worked on at a time while it is stored: they stay in a CPU's cache.
_PIECE = 1 << 18


def storage_type(name: str | None) -> torch.dtype | None:
    """The torch type of a ``delta_dtype``."""
    return None if name is None else DELTA_DTYPES[name]


@dataclass(frozen=True)
class Packed:
    """A matrix in the stored type, whose columns are those of a flat vector.

    Attributes:
        rows: (b, N).
        quantum: With int8 (T, b): row k of tensor t stands for ``quantum[t, k]`` times what is stored. None for others.
        layout: Where each of the T tensors lies in a row.
        chunks: The same for the kernels of a GPU.
    """

    rows: Tensor
    quantum: Tensor | None
    layout: Layout
    chunks: Tensor

    @classmethod
    def empty(cls, count: int, layout: Layout, like: Tensor, dtype: torch.dtype) -> Packed:
        """A matrix to fill with ``count`` rows, for products with vectors of the type and on the device of ``like``."""
        rows = torch.empty(count, layout.numel, dtype=dtype, device=like.device)
        quantum = None
        if dtype == torch.int8:
            quantum = torch.ones(len(layout.names), count, dtype=like.dtype, device=like.device)
        return cls(rows, quantum, layout, chunk_table(layout.starts, layout.sizes, like.device))

    def store(self, k: int, t: int, values: Tensor, centre: Tensor | None) -> None:
        """Store tensor t of row k: values - centre, rounded to nearest; int8 spans its largest entry by 127 steps.

        Args:
            k: The row.
            t: The tensor, by its place in the layout.
            values: Flat, on the device of the rows, in any floating-point type.
            centre: What is subtracted, flat and of the full type; None: nothing.
        """
        full = None if centre is None else centre.dtype
        row = self.rows[k, self.layout.starts[t] :][: len(values)]
        step: Tensor | None = None
        if self.quantum is not None:
            full = self.quantum.dtype
            largest = torch.stack([piece.abs().max() for _, piece in _pieces(values, centre, full)]).max()
            step = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
            self.quantum[t, k] = step
        for columns, piece in _pieces(values, centre, full):
            row[columns].copy_(piece if step is None else (piece / step).round_())

    def mix(self, weights: Tensor, fixed: Tensor, out: Tensor) -> None:
        """Write fixed + sum_k weights_tk row_k into ``out``; both flat (N) of the full type, weights (T, b)."""
        mix(self.rows, weights, fixed, self.chunks, self.layout.starts, self.layout.sizes, out)

    def project(self, vectors: Mapping[str, Tensor], out: Tensor) -> None:
        """Write inner products (T, b) of the rows with the tensors' vectors into ``out``; one that lacks is zero."""
        in_order = [vectors.get(name) for name in self.layout.names]
        project(self.rows, in_order, self.chunks, self.layout.starts, self.layout.sizes, out)

    def square_norms(self, dtype: torch.dtype) -> Tensor:
        """Squared length (T, b) of each tensor's part of each row, without the quantum."""
        total = torch.zeros(len(self.layout.names), len(self.rows), dtype=dtype, device=self.rows.device)
        for t, (start, size) in enumerate(zip(self.layout.starts, self.layout.sizes, strict=True)):
            for offset in range(start, start + size, _PIECE):
                piece = self.rows[:, offset : min(offset + _PIECE, start + size)].to(dtype)
                total[t] += piece.square().sum(dim=1)
        return total


def _pieces(values: Tensor, centre: Tensor | None, full: torch.dtype | None) -> Iterator[tuple[slice, Tensor]]:
    """values - centre in the full type (None: their own), a few entries at a time."""
    for start in range(0, len(values), _PIECE):
        columns = slice(start, start + _PIECE)
        piece = values[columns] if full is None else values[columns].to(full)
        yield columns, piece if centre is None else piece - centre[columns]
