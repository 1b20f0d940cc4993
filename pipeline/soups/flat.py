"""Many tensors as one flat vector: what runs over all weights is then a launch or two, not one for each tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Tensors begin at multiples of so many entries: 16 bytes of the smallest type, as wide loads of a GPU need them.
_ALIGNED = 16


@dataclass(frozen=True)
class Layout:
    """Where each tensor lies in a flat vector of ``numel`` entries, in which gaps of a few entries mean nothing.

    Attributes:
        names: The T tensors, one after the other.
        shapes: Of each.
        starts: Its first entry; a multiple of 16.
        sizes: Its number of entries.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    starts: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Layout:
        """A layout of these tensors, in their order."""
        starts, end = [], 0
        for tensor in tensors.values():
            starts.append(end)
            end += _aligned(tensor.numel())
        sizes = tuple(tensor.numel() for tensor in tensors.values())
        return cls(tuple(tensors), tuple(tensor.shape for tensor in tensors.values()), tuple(starts), sizes)

    @property
    def numel(self) -> int:
        """Entries of the flat vector, gaps included."""
        return self.starts[-1] + _aligned(self.sizes[-1]) if self.names else 0

    def part(self, tensors: slice) -> tuple[Layout, slice]:
        """A layout of some neighbouring tensors alone, and which columns of this one theirs are."""
        first, names = self.starts[tensors.start], self.names[tensors]
        starts = tuple(start - first for start in self.starts[tensors])
        alone = Layout(names, self.shapes[tensors], starts, self.sizes[tensors])
        return alone, slice(first, first + alone.numel)

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The tensors in a flat vector, by name: writing to one writes to the vector."""
        return {
            name: flat[start : start + size].view(shape)
            for name, shape, start, size in zip(self.names, self.shapes, self.starts, self.sizes, strict=True)
        }


@torch.no_grad()
def flattened(slots: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """Move a model's own tensors, in place, into one flat vector of their type and device, which is returned."""
    like = slots[layout.names[0]]
    flat = torch.zeros(layout.numel, dtype=like.dtype, device=like.device)
    for name, view in layout.views(flat).items():
        view.copy_(slots[name])
        slots[name].data = view
    return flat


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
