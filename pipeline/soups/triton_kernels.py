"""`mix` and `project` of `kernels` for CUDA: a program for each piece of columns, which goes through the b rows.

The piece of the vector stays in registers meanwhile, so that a step reads each stored byte twice, once per product, and
each vector once. Sums are taken in a fixed order: the same result every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.soups.kernels import CHUNK

_SUMMED = 1024  # pieces of a tensor whose sums are added at a time


def mix(
    rows: Tensor,
    weights: Tensor,
    fixed: Tensor,
    chunks: Tensor,
    starts: Sequence[int],
    sizes: Sequence[int],
    out: Tensor,
) -> None:
    """See `kernels.mix`."""
    pieces = len(chunks) - len(starts) - 1
    _mix[(pieces,)](rows, weights, fixed, chunks, out, rows.stride(0), len(rows), CHUNK=CHUNK, num_warps=8)


def project(
    rows: Tensor,
    vectors: Sequence[Tensor | None],
    chunks: Tensor,
    starts: Sequence[int],
    sizes: Sequence[int],
    out: Tensor,
) -> None:
    """See `kernels.project`."""
    tensors, models = out.shape
    pieces = len(chunks) - tensors - 1
    vector = torch.cat(
        [out.new_zeros(size) if one is None else one.reshape(-1) for one, size in zip(vectors, sizes, strict=True)]
    )
    partial = out.new_empty(models, pieces)
    _project[(pieces,)](rows, vector, chunks, partial, rows.stride(0), models, pieces, CHUNK=CHUNK, num_warps=8)
    _sum[(tensors, models)](partial, chunks, out, pieces, models, BLOCK=_SUMMED)


@triton.jit  # type: ignore[untyped-decorator]
def _mix(
    rows: Any, weights: Any, fixed: Any, chunks: Any, out: Any, stride: Any, models: Any, CHUNK: tl.constexpr
) -> None:
    line = chunks + 4 * tl.program_id(0)
    start, size, tensor = tl.load(line), tl.load(line + 1), tl.load(line + 2)
    column = tl.arange(0, CHUNK)
    inside = column < size
    total = tl.load(fixed + start + column, mask=inside, other=0.0)
    row = rows + start
    for k in range(models):
        values = tl.load(row + column, mask=inside, other=0.0).to(total.dtype)
        total += tl.load(weights + tensor * models + k) * values
        row += stride
    tl.store(out + start + column, total, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _project(
    rows: Any,
    vector: Any,
    chunks: Any,
    partial: Any,
    stride: Any,
    models: Any,
    pieces: Any,
    CHUNK: tl.constexpr,
) -> None:
    piece = tl.program_id(0)
    line = chunks + 4 * piece
    start, size, dense = tl.load(line), tl.load(line + 1), tl.load(line + 3)
    column = tl.arange(0, CHUNK)
    inside = column < size
    factor = tl.load(vector + dense + column, mask=inside, other=0.0)
    row = rows + start
    for k in range(models):
        values = tl.load(row + column, mask=inside, other=0.0).to(factor.dtype)
        tl.store(partial + k * pieces + piece, tl.sum(values * factor))
        row += stride


@triton.jit  # type: ignore[untyped-decorator]
def _sum(partial: Any, chunks: Any, out: Any, pieces: Any, models: Any, BLOCK: tl.constexpr) -> None:
    tensor, k = tl.program_id(0), tl.program_id(1)
    firsts = chunks + 4 * (pieces + tensor)
    first, last = tl.load(firsts), tl.load(firsts + 4)
    total = tl.zeros((BLOCK,), dtype=partial.dtype.element_ty)
    for piece in range(first, last, BLOCK):
        at = piece + tl.arange(0, BLOCK)
        total += tl.load(partial + k * pieces + at, mask=at < last, other=0.0)
    tl.store(out + tensor * models + k, tl.sum(total))
