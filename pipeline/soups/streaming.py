"""Weighted sums of memory-mapped tensors in float64, piece by piece: scratch memory is small."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_PIECE = 1 << 18  # 2 MiB of float64: stays in cache while the ingredients pass by


def weighted_sum(terms: Sequence[tuple[float, Tensor]], out: Tensor) -> Tensor:
    """Write sum_i weight_i tensor_i into the contiguous CPU tensor ``out``, rounded once; returns it.

    Pieces of the flattened tensors are summed one after the other: scratch is two pieces of float64, whatever the
    number and the size of the tensors. A single term of weight 1 is copied bit for bit.
    """
    flat = out.view(-1)
    sources = [(weight, tensor.reshape(-1)) for weight, tensor in terms]
    total = torch.empty(min(_PIECE, flat.numel()), dtype=torch.float64)
    term = torch.empty_like(total)
    for start in range(0, flat.numel(), _PIECE):
        size = min(_PIECE, flat.numel() - start)
        piece = slice(start, start + size)
        # The first term is copied, not added to zero: 0.0 + -0.0 is 0.0, and a one-hot sum must keep the bits.
        (weight, source), *others = sources
        total[:size].copy_(source[piece]).mul_(weight)
        for weight, source in others:
            total[:size].add_(term[:size].copy_(source[piece]), alpha=weight)
        flat[piece].copy_(total[:size])
    return out
