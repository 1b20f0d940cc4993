"""Memory-mapped tensors as they pass by: their way to a GPU, and weighted sums in float64 with little scratch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pipeline.soups.feeding import Feed

_PIECE = 1 << 18  # 2 MiB of float64: stays in cache while the ingredients pass by


def on_device(tensors: Iterable[Tensor], device: torch.device | str) -> Iterator[Tensor]:
    """The CPU ``tensors`` on the device, one after the other; each is valid until the next one is asked for.

    They go as batches of a `Feed` do: for CUDA one is read from its file and copied while another is worked on.
    """
    for (tensor,) in Feed(((tensor,) for tensor in tensors), device):
        yield tensor


def weighted_sum(terms: Sequence[tuple[float, Tensor]], out: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Write sum_i weight_i tensor_i into the contiguous CPU tensor ``out``, rounded once; returns it.

    On a CPU pieces of the flattened tensors are summed one after the other: scratch is two pieces of float64, whatever
    the number and the size of the tensors. A GPU sums whole tensors as they stream by, and has them in float64 twice.
    Both round every product and every sum (no fused multiply-add), so that they come to the same bits. A single term of
    weight 1 is copied bit for bit.
    """
    if torch.device(device).type == "cuda":
        return out.copy_(_sum_on_device(terms, device).to(out.dtype).view_as(out))
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
            total[:size].add_(term[:size].copy_(source[piece]).mul_(weight))
        flat[piece].copy_(total[:size])
    return out


def _sum_on_device(terms: Sequence[tuple[float, Tensor]], device: torch.device | str) -> Tensor:
    stream = zip((weight for weight, _ in terms), on_device((tensor for _, tensor in terms), device), strict=True)
    weight, tensor = next(stream)
    total = tensor.to(torch.float64, copy=True).mul_(weight)
    for weight, tensor in stream:
        total.add_(tensor.to(torch.float64, copy=True).mul_(weight))
    return total
