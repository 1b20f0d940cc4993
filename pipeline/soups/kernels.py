"""The two products of a step over directions in their stored type: mixing (Eq. 8) and projecting (Eq. 6).

Both are operators of PyTorch, so that each device has its own way: Triton kernels on CUDA (`triton_kernels`), which
read a stored byte once and convert it on the way; elsewhere matrix-vector products, tensor by tensor. Products and sums
are of the type of the vectors, whatever the type of the matrix.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

# Columns that a CPU unpacks at a time: few enough to stay in its cache; a GPU without Triton: enough to keep it busy.
_CPU_COLUMNS, _CUDA_COLUMNS = 1 << 16, 1 << 20

_library = torch.library.Library("pipeline", "DEF")
_library.define(
    "mix(Tensor rows, Tensor weights, Tensor fixed, Tensor chunks, int[] starts, int[] sizes, Tensor(a!) out) -> ()"
)
_library.define(
    "project(Tensor rows, Tensor?[] vectors, Tensor chunks, int[] starts, int[] sizes, Tensor(a!) out) -> ()"
)


def mix(
    rows: Tensor,
    weights: Tensor,
    fixed: Tensor,
    chunks: Tensor,
    starts: Sequence[int],
    sizes: Sequence[int],
    out: Tensor,
) -> None:
    """Write fixed + sum_k weights_tk rows_k into ``out``, for the columns of each of T tensors with its own weights.

    Args:
        rows: The matrix (b, N), in the stored type.
        weights: (T, b) in the full type, contiguous.
        fixed: (N) in the full type.
        chunks: The table of `chunk_table`, on the device.
        starts: First column of each tensor (T).
        sizes: Its number of columns (T).
        out: (N) in the full type; columns of no tensor are left as they are.
    """
    torch.ops.pipeline.mix(rows, weights, fixed, chunks, starts, sizes, out)


def project(
    rows: Tensor,
    vectors: Sequence[Tensor | None],
    chunks: Tensor,
    starts: Sequence[int],
    sizes: Sequence[int],
    out: Tensor,
) -> None:
    """Write into ``out`` (T, b) the inner products of each tensor's columns of the rows with its own vector.

    Args:
        rows: The matrix (b, N), in the stored type.
        vectors: T of them in the full type, of any shape with as many entries as the tensor has; None: a zero vector.
        chunks: The table of `chunk_table`, on the device.
        starts: First column of each tensor (T).
        sizes: Its number of columns (T).
        out: (T, b) in the full type, contiguous.
    """
    torch.ops.pipeline.project(rows, vectors, chunks, starts, sizes, out)


def chunk_table(starts: Sequence[int], sizes: Sequence[int], device: torch.device) -> Tensor:
    """What the programs of a kernel work on: pieces of at most `CHUNK` columns, none of which spans two tensors.

    Returns:
        int64 (C, 4) on the device, in order: first column, number of columns, tensor, and first entry in the tensors'
        vectors one after the other without gaps. Then come T + 1 lines, whose first entry is the first piece of each
        tensor, and C.
    """
    pieces: list[tuple[int, int, int, int]] = []
    firsts, dense = [], 0
    for tensor, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        firsts.append(len(pieces))
        for offset in range(0, size, CHUNK):
            pieces.append((start + offset, min(CHUNK, size - offset), tensor, dense + offset))
        dense += size
    lines = pieces + [(first, 0, 0, 0) for first in (*firsts, len(pieces))]
    return torch.tensor(lines, dtype=torch.int64).to(device)


CHUNK = 4096


def _mix(
    rows: Tensor,
    weights: Tensor,
    fixed: Tensor,
    chunks: Tensor,
    starts: Sequence[int],
    sizes: Sequence[int],
    out: Tensor,
) -> None:
    scratch = _scratch(rows, fixed.dtype, sizes)
    for t, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        for columns, piece in _unpacked(rows, start, size, fixed.dtype, scratch):
            torch.addmv(fixed[columns], piece.t(), weights[t], out=out[columns])


def _project(
    rows: Tensor,
    vectors: Sequence[Tensor | None],
    chunks: Tensor,
    starts: Sequence[int],
    sizes: Sequence[int],
    out: Tensor,
) -> None:
    scratch = _scratch(rows, out.dtype, sizes)
    out.zero_()
    for t, (start, size, vector) in enumerate(zip(starts, sizes, vectors, strict=True)):
        if vector is None:
            continue
        flat = vector.reshape(-1)
        for columns, piece in _unpacked(rows, start, size, out.dtype, scratch):
            out[t].addmv_(piece, flat[columns.start - start : columns.stop - start])


def _scratch(rows: Tensor, dtype: torch.dtype, sizes: Sequence[int]) -> Tensor | None:
    """Memory for the columns that are unpacked at a time: fresh memory each time would cost more than the product."""
    if rows.dtype == dtype:
        return None
    return torch.empty(len(rows), min(max(sizes), _columns(rows)), dtype=dtype, device=rows.device)


def _unpacked(
    rows: Tensor, start: int, size: int, dtype: torch.dtype, scratch: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """A tensor's columns and what they hold in the full type (b, columns); a few at a time where they are unpacked."""
    if scratch is None:
        yield slice(start, start + size), rows[:, start : start + size]
        return
    for offset in range(start, start + size, scratch.shape[1]):
        columns = slice(offset, min(offset + scratch.shape[1], start + size))
        part = rows[:, columns]
        yield columns, scratch[:, : part.shape[1]].copy_(part)


def _columns(rows: Tensor) -> int:
    return _CUDA_COLUMNS if rows.is_cuda else _CPU_COLUMNS


def _on_cuda(name: str, slowly: object) -> object:
    """The Triton kernel of this name, compiled at its first call; the general way where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        return slowly

    def launch(*arguments: object) -> None:
        from pipeline.soups import triton_kernels  # only now: it loads the compiler

        getattr(triton_kernels, name)(*arguments)

    return launch


for _name, _general in (("mix", _mix), ("project", _project)):
    _library.impl(_name, _general, "CompositeExplicitAutograd")
    _library.impl(_name, _on_cuda(_name, _general), "CUDA")
