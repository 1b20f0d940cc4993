"""The directions theta_k - centre of a block, and the two products of a step: mixing them, projecting on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.packed import Packed


class Directions:
    """Directions theta_k - centre of the b models of a block.

    Attributes:
        matrices: A matrix (b, numel) for each tensor by its name: row i is model i's direction, flattened.
        layer_of: The layer of each tensor, an index below L.
        members: The other way round: for each layer its tensors, by their place in ``matrices``.
        scale: (b, L), what each direction counts by: ones, or 1/norm after `scale_to_unit_length`. Products are scaled,
            the matrices stay as they were read.
    """

    def __init__(self, matrices: dict[str, Packed], layer_of: Mapping[str, int], like: Tensor, num_layers: int) -> None:
        self.matrices, self.layer_of = matrices, layer_of
        self.members = [
            [i for i, name in enumerate(matrices) if layer_of[name] == layer] for layer in range(num_layers)
        ]
        self.one_tensor_per_layer = all(members == [layer] for layer, members in enumerate(self.members))
        count = len(next(iter(matrices.values())).rows)
        self.scale = torch.ones(count, num_layers, dtype=like.dtype, device=like.device)

    def scale_to_unit_length(self) -> None:
        """Divide each direction by its norm within each layer; one without length stays as it is."""
        squares = [matrix.square_norms(self.scale.dtype) for matrix in self.matrices.values()]
        norms = self._sum_layers(torch.stack(squares, dim=1)).sqrt()
        self.scale = torch.where(norms > 0, 1 / norms, torch.ones_like(norms))

    @torch.no_grad()
    def mix(self, alpha: Tensor, fixed: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        """Write fixed + sum_k alpha_k (theta_k - centre) into ``out`` (Eq. 8); ``alpha`` is (b, L)."""
        # One contiguous row per layer: BLAS reads a strided vector two to three times slower.
        weights = (alpha * self.scale).t().contiguous()
        for name, matrix in self.matrices.items():
            flat = out[name].detach().view(-1)
            matrix.add_to(fixed[name].view(-1), weights[self.layer_of[name]], flat)

    @torch.no_grad()
    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The gradient of alpha, (b, L): inner products of the soup's gradient with the directions (Eq. 6).

        A tensor that no gradient reaches (a buffer, an unused weight) contributes nothing.
        """
        nothing = self.scale.new_zeros(len(self.scale))
        products = [
            matrix.dot(gradients[name].reshape(-1)) if name in gradients else nothing
            for name, matrix in self.matrices.items()
        ]
        return self._sum_layers(torch.stack(products, dim=1)) * self.scale

    def _sum_layers(self, per_tensor: Tensor) -> Tensor:
        """From a column per tensor (b, tensors) to a column per layer (b, L): sums over each layer's tensors."""
        if self.one_tensor_per_layer:
            return per_tensor
        # Sums over index lists, not index_add_, whose order on CUDA is not fixed.
        return torch.stack([per_tensor[:, members].sum(dim=1) for members in self.members], dim=1)


def load_directions(
    ingredients: IngredientSet,
    block: Sequence[int],
    centre: Mapping[str, Tensor] | None,
    like: Mapping[str, Tensor],
    layer_of: Mapping[str, int],
    num_layers: int,
    dtype: torch.dtype | None = None,
) -> Directions:
    """Read the directions of a block to the device of ``like``, one tensor of one model at a time.

    They are kept in ``dtype``, by default as the ingredients are stored. ``centre`` None leaves out the subtraction
    (the ablation of App. D).
    """
    matrices: dict[str, Packed] = {}
    for name, target in like.items():
        packed = Packed.empty(len(block), target, dtype or ingredients.tensor(0, name).dtype)
        middle = None if centre is None else centre[name].to(target).view(-1)
        for row, k in enumerate(block):
            packed.set_row(row, ingredients.tensor(k, name).to(target).view(-1), middle)
        matrices[name] = packed
    return Directions(matrices, layer_of, next(iter(like.values())), num_layers)
