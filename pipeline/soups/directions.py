"""The directions theta_k - centre of a block, and the two products of a step: mixing them, projecting on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from pipeline.soups.flat import Layout
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.packed import Packed
from pipeline.soups.streaming import on_device


@dataclass(frozen=True)
class Part:
    """The tensors that are stored in one type: their directions, and which of all columns and tensors they are."""

    packed: Packed
    columns: slice
    tensors: slice


class Directions:
    """Directions theta_k - centre of the b models of a block, over the flat vector of all T mixed tensors.

    Attributes:
        parts: One for each stored type: as a rule a single one.
        layer_of: (T), the layer of each tensor, an index below L; None where tensor t is layer t.
        members: (T, L): one where the tensor belongs to the layer, else zero; None likewise.
        factor: (T, b), what each direction counts by in each tensor besides alpha: 1/norm after
            `scale_to_unit_length`, times the quantum of what is stored as int8; None: one.
        scale: (b, L): ones, or 1/norm after `scale_to_unit_length`. The matrices stay as they were read.
    """

    def __init__(self, parts: Sequence[Part], layers: Sequence[int], num_layers: int, like: Tensor) -> None:
        self.parts = tuple(parts)
        count, tensors = len(parts[0].packed.rows), len(layers)
        self.layer_of: Tensor | None = None
        self.members: Tensor | None = None
        if list(layers) != list(range(num_layers)):
            self.layer_of = torch.tensor(layers).to(like.device)
            members = torch.zeros(tensors, num_layers, dtype=like.dtype)
            members[torch.arange(tensors), torch.tensor(layers)] = 1
            self.members = members.to(like.device)
        self.scale = torch.ones(count, num_layers, dtype=like.dtype, device=like.device)
        self.factor = self._quanta()

    def scale_to_unit_length(self) -> None:
        """Divide each direction by its norm within each layer; one without length stays as it is."""
        quanta = self._quanta()
        squares = torch.cat([part.packed.square_norms(self.scale.dtype) for part in self.parts])
        norms = self._sum_layers(squares if quanta is None else squares * quanta.square()).sqrt()
        self.scale = torch.where(norms > 0, 1 / norms, torch.ones_like(norms))
        factor = self._of_tensors(self.scale)
        self.factor = factor if quanta is None else factor * quanta

    @torch.no_grad()
    def mix(self, alpha: Tensor, fixed: Tensor, out: Tensor) -> None:
        """Write fixed + sum_k alpha_k (theta_k - centre) into ``out`` (Eq. 8), both flat; ``alpha`` is (b, L)."""
        weights = self._of_tensors(alpha)
        if self.factor is not None:
            weights = weights * self.factor
        for part in self.parts:
            part.packed.mix(weights[part.tensors], fixed[part.columns], out[part.columns])

    @torch.no_grad()
    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The gradient of alpha, (b, L): inner products of the soup's gradient with the directions (Eq. 6).

        Gradients go by name and are shaped as their tensors. A tensor that none reaches (a buffer, an unused weight)
        contributes nothing.
        """
        count, tensors = len(self.scale), self.parts[-1].tensors.stop
        products = self.scale.new_empty(tensors, count)
        for part in self.parts:
            part.packed.project(gradients, products[part.tensors])
        return self._sum_layers(products if self.factor is None else products.mul_(self.factor))

    def _quanta(self) -> Tensor | None:
        """(T, b), what the stored numbers count by; None where all count as they are."""
        quanta = [part.packed.quantum for part in self.parts]
        if all(quantum is None for quantum in quanta):
            return None
        return torch.cat(
            [
                self.scale.new_ones(part.tensors.stop - part.tensors.start, len(self.scale))
                if quantum is None
                else quantum
                for part, quantum in zip(self.parts, quanta, strict=True)
            ]
        )

    def _of_tensors(self, by_layer: Tensor) -> Tensor:
        """From a column per layer (b, L) to a row per tensor (T, b), contiguous: BLAS is slow with strided vectors."""
        if self.layer_of is None:
            return by_layer.t().contiguous()
        return by_layer.t().index_select(0, self.layer_of)

    def _sum_layers(self, per_tensor: Tensor) -> Tensor:
        """From a row per tensor (T, b) to a column per layer (b, L): sums over each layer's tensors."""
        # A product, not index_add_, whose order on CUDA is not fixed.
        return per_tensor.t() if self.members is None else per_tensor.t() @ self.members


def load_directions(
    ingredients: IngredientSet,
    block: Sequence[int],
    centre: Mapping[str, Tensor] | None,
    layout: Layout,
    like: Tensor,
    layer_of: Mapping[str, int],
    num_layers: int,
    dtype: torch.dtype | None = None,
) -> Directions:
    """Read the directions of a block to the device of ``like``, one tensor of one model at a time.

    They are kept in ``dtype``, by default as the ingredients are stored. ``centre`` None leaves out the subtraction
    (the ablation of App. D).
    """
    stored = [dtype or ingredients.tensor(0, name).dtype for name in layout.names]
    parts = empty_parts(len(block), layout, stored, like)
    for part in parts:
        names = part.packed.layout.names
        read = on_device((ingredients.tensor(k, name).view(-1) for name in names for k in block), like.device)
        for t, name in enumerate(names):
            middle = None if centre is None else centre[name].to(like).view(-1)
            for row in range(len(block)):
                part.packed.store(row, t, next(read), middle)
    return Directions(parts, [layer_of[name] for name in layout.names], num_layers, like)


def empty_parts(count: int, layout: Layout, stored: Sequence[torch.dtype], like: Tensor) -> list[Part]:
    """Matrices to fill with ``count`` directions: one for each run of tensors stored in one type."""
    parts, first = [], 0
    for dtype, run in groupby(stored):
        tensors = slice(first, first + len(list(run)))
        alone, columns = layout.part(tensors)
        parts.append(Part(Packed.empty(count, alone, like, dtype), columns, tensors))
        first = tensors.stop
    return parts
