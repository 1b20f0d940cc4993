"""The directions theta_k - centre of a block, and the two products of a step: mixing them, projecting on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.soups.ingredients import IngredientSet


class Directions:
    """Directions of the b models of a block: per tensor one (b, numel) matrix.

    ``layer_of`` gives the layer of each tensor, ``scale`` (b, L) what each direction is multiplied by (1/norm for
    ``direction_scale="unit"``).
    """

    def __init__(
        self, matrices: dict[str, Tensor], layer_of: Mapping[str, int], num_layers: int, *, unit: bool
    ) -> None:
        self.matrices, self.layer_of, self.num_layers = matrices, layer_of, num_layers
        self.members = [
            [i for i, name in enumerate(matrices) if layer_of[name] == layer] for layer in range(num_layers)
        ]
        self.one_tensor_per_layer = all(members == [layer] for layer, members in enumerate(self.members))
        some = next(iter(matrices.values()))
        self.scale = torch.ones(len(some), num_layers, dtype=some.dtype, device=some.device)
        if unit:
            squares = torch.stack([matrix.square().sum(dim=1) for matrix in matrices.values()], dim=1)
            norms = self._sum_layers(squares).sqrt()
            self.scale = torch.where(norms > 0, 1 / norms, torch.ones_like(norms))

    def mix(self, alpha: Tensor, fixed: Mapping[str, Tensor], out: Mapping[str, Tensor], sign: float = 1.0) -> None:
        """Write fixed + sign * sum_k alpha_k (theta_k - centre) into ``out`` (Eq. 8); ``alpha`` is (b, L)."""
        weights = alpha * self.scale
        for name, matrix in self.matrices.items():
            weight = weights[:, self.layer_of[name]]
            flat = out[name].detach().view(-1)
            torch.addmv(fixed[name].view(-1), matrix.t(), weight, alpha=sign, out=flat)

    def project(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """The gradient of alpha, (b, L): inner products of the soup's gradient with the directions (Eq. 6).

        A tensor that no gradient reaches (a buffer, an unused weight) contributes nothing.
        """
        products = []
        for name, matrix in self.matrices.items():
            gradient = gradients.get(name)
            products.append(matrix.new_zeros(len(matrix)) if gradient is None else matrix.mv(gradient.reshape(-1)))
        return self._sum_layers(torch.stack(products, dim=1)) * self.scale

    def _sum_layers(self, per_tensor: Tensor) -> Tensor:
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
    *,
    unit: bool = False,
) -> Directions:
    """Read the directions of a block onto the device and in the dtype of ``like``, one tensor of one model at a time.

    ``centre`` None leaves out the subtraction (the ablation of App. D).
    """
    matrices: dict[str, Tensor] = {}
    for name, target in like.items():
        matrix = torch.empty(len(block), target.numel(), dtype=target.dtype, device=target.device)
        middle = None if centre is None else centre[name].to(target).view(-1)
        for row, k in zip(matrix, block, strict=True):
            row.copy_(ingredients.tensor(k, name).view(-1))
            if middle is not None:
                row.sub_(middle)
        matrices[name] = matrix
    return Directions(matrices, layer_of, num_layers, unit=unit)
