"""The linear probe: a classification head that is fitted to frozen features before anything is fine-tuned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# L2 strengths from strong to weak, for features of unit size; the first leaves little more than the classes' shares.
_STRENGTHS = tuple(10 ** (2 - half / 2) for half in range(17))
_PATIENCE = 3  # strengths in a row that lower the held-out loss no more, before the weaker and slower are given up
_FOLDS, _ENOUGH_HELD_OUT = 5, 2000  # a fold is a fifth of the images; of large sets one is enough
_ROWS = 2**16  # whose logits are computed at a time: those of all of ImageNet are 5 GB


def linear_probe(features: Tensor, labels: Tensor, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression on frozen features, its L2 strength chosen on held-out images.

    Features (N, D) are centred and divided by one number, the root of their mean variance: so the strength is on their
    scale, and no column is blown up because it hardly varies. The strength is the one with the lowest loss in a seeded
    cross-validation (Kumar et al., 2022, and CLIP choose it on validation images); then all N images are fitted.

    Returns weight (classes, D) and bias (classes,) for the features as they are, in their type and on their device.
    """
    center = features.mean(0)
    scale = (features - center).square().mean().sqrt().clamp_min(torch.finfo(features.dtype).tiny)
    inputs = (features - center) / scale
    strengths = _STRENGTHS[: 1 + _chosen(inputs, labels, num_classes, seed)]
    *_, (weight, bias) = _solutions(inputs, labels, num_classes, strengths)
    weight = weight / scale
    return weight, bias - weight @ center


def _chosen(inputs: Tensor, labels: Tensor, num_classes: int, seed: int) -> int:
    """The place in ``_STRENGTHS`` of the one with the lowest held-out loss; 0 where there is nothing to hold out."""
    count = len(labels)
    if count < _FOLDS:
        return 0
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).to(labels.device)
    folds = order.tensor_split(_FOLDS)[: math.ceil(_ENOUGH_HELD_OUT / (count // _FOLDS))]
    kept = torch.ones(len(folds), count, dtype=torch.bool, device=labels.device)
    for fold, mask in zip(folds, kept, strict=True):
        mask[fold] = False
    paths = [_solutions(inputs[mask], labels[mask], num_classes, _STRENGTHS) for mask in kept]
    losses: list[float] = []
    # All folds go from strength to strength together.
    for heads in zip(*paths, strict=True):
        losses.append(
            sum(
                F.cross_entropy(F.linear(inputs[fold], *head), labels[fold], reduction="sum").item()
                for fold, head in zip(folds, heads, strict=True)
            )
        )
        best = min(range(len(losses)), key=losses.__getitem__)
        if len(losses) - 1 - best == _PATIENCE:
            break
    return best


def _solutions(
    inputs: Tensor, labels: Tensor, num_classes: int, strengths: Sequence[float]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Weight and bias for each of ``strengths`` by L-BFGS over the full batch, each from where the last one ended."""
    weight = inputs.new_zeros(num_classes, inputs.shape[1], requires_grad=True)
    bias = inputs.new_zeros(num_classes, requires_grad=True)
    chunks = list(zip(inputs.split(_ROWS), labels.split(_ROWS), strict=True))
    for strength in strengths:
        # As exactly as scikit-learn does by default.
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=200, tolerance_grad=1e-4, tolerance_change=1e-6, line_search_fn="strong_wolfe"
        )

        def closure(strength: float = strength, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            total = strength * weight.square().sum() / 2
            total.backward()
            for rows, target in chunks:
                loss = F.cross_entropy(F.linear(rows, weight, bias), target, reduction="sum") / len(labels)
                loss.backward()
                total = total + loss.detach()
            return total.detach()

        optimizer.step(closure)
        yield weight.detach().clone(), bias.detach().clone()
