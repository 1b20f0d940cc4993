"""Why a soup failed: how far and which way each ingredient went, and how steep the way from it to the soup is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.rebuild import mixed_tensors, soup_from_coefficients
from pipeline.soups.scoring import Score

# Entries of a (K, columns) piece of the directions that are in memory at a time.
_PIECE_ENTRIES = 1 << 23
# A direction this much longer than the median, or an accuracy this much lower half way, is called out.
_FAR, _BARRIER = 3.0, 0.05


@dataclass(frozen=True)
class Diagnosis:
    """Geometry and barriers of K ingredients around an origin.

    Attributes:
        origin: What directions are measured from: ``theta0`` or ``mean``.
        paths: The K files.
        norms: Lengths (K,) of the directions theta_k - origin.
        angles: Between them, (K, K) in degrees; about 90 is usual for fine-tuned models.
        accuracies: Of the K ingredients.
        soup_accuracy: Of their mean.
        barriers: For each ingredient the accuracy lost half way to the mean, against the average of both ends: above 0
            there is a hill between them.
    """

    origin: str
    paths: tuple[Path, ...]
    norms: Tensor
    angles: Tensor
    accuracies: tuple[float, ...]
    soup_accuracy: float
    barriers: tuple[float, ...]

    def explain(self) -> list[str]:
        """A line on the soup, then one on each ingredient that stands out, the worst barrier first."""
        best = max(self.accuracies)
        lines = [
            f"the mean of {len(self.paths)} ingredients has accuracy {self.soup_accuracy:.4f}, the best one {best:.4f}"
        ]
        median = float(self.norms.median())
        for k in sorted(range(len(self.paths)), key=lambda k: -self.barriers[k]):
            length = float(self.norms[k]) / median if median > 0 else 1.0
            if self.barriers[k] > _BARRIER or length > _FAR:
                lines.append(
                    f"{self.paths[k]}: accuracy {self.accuracies[k]:.4f}, {length:.1f} times as far from the "
                    f"{self.origin} as the median, {self.barriers[k]:.4f} lost half way to the soup; try without it"
                )
        return lines


@dataclass(frozen=True)
class Similarities:
    """Cosines between K ingredients, each (K, K) in float64, over all their floating-point weights.

    Attributes:
        weights: Between the weights themselves.
        from_mean: Between their directions from the mean (Eq. 3: what decentralization makes of them, App. D of the
            MEHL-Soup paper).
        from_theta0: Between their directions from theta0; None without it.
    """

    weights: Tensor
    from_mean: Tensor
    from_theta0: Tensor | None


def cosine_similarities(ingredients: IngredientSet, theta0: Mapping[str, Tensor] | None = None) -> Similarities:
    """All pairs in one pass over the files; memory does not grow with the models' size.

    Args:
        ingredients: K fine-tuned models.
        theta0: The weights that all of them started from, by name, if known.

    Raises:
        SoupError: theta0 lacks a tensor of the ingredients.
    """
    products = _products(ingredients, theta0)
    return Similarities(
        weights=_cosines(_gram(products, len(ingredients), +1, 0)),
        from_mean=_cosines(_gram(products, len(ingredients), 0, 0)),
        from_theta0=None if theta0 is None else _cosines(_gram(products, len(ingredients), 0, -1)),
    )


def _products(ingredients: IngredientSet, theta0: Mapping[str, Tensor] | None) -> Tensor:
    """Inner products (K + 2, K + 2) of the vectors theta_k - mean (K of them), mean, and theta0 - mean (0 without).

    Each vector is all floating-point weights of a model, end to end. The products are summed over pieces of them: a
    piece holds the same few columns of all K + 2 vectors.
    """
    count = len(ingredients)
    products = torch.zeros(count + 2, count + 2, dtype=torch.float64)
    size = max(_PIECE_ENTRIES // (count + 2), 1)
    mixed = set(mixed_tensors(ingredients, theta0))
    for name in ingredients.floating:
        mean = (ingredients.mean_tensor(name) if name in mixed else ingredients.tensor(0, name)).reshape(-1)
        origin = mean if theta0 is None else theta0[name].cpu().reshape(-1)
        for start in range(0, mean.numel(), size):
            piece = slice(start, start + size)
            rows = [ingredients.tensor(k, name).reshape(-1)[piece] for k in range(count)]
            # (K + 2, columns): the ingredients, the mean, theta0, and then all but the mean seen from the mean.
            stacked = torch.stack([*(row.double() for row in rows), mean[piece].double(), origin[piece].double()])
            stacked[:count] -= stacked[count]
            stacked[count + 1] -= stacked[count]
            products += stacked @ stacked.t()
    return products


def _gram(products: Tensor, count: int, times_mean: int, times_theta0: int) -> Tensor:
    """Inner products (K, K) of the vectors theta_k - mean + times_mean * mean + times_theta0 * (theta0 - mean).

    (0, 0) leaves directions from the mean, (1, 0) gives the weights theta_k, (0, -1) directions theta_k - theta0.
    """
    # The wanted vectors are C V, where the rows of V are those that `_products` multiplied (P = V V^T), and row k of
    # C (K, K + 2) takes vector k once and the last two as often as asked for. Then (C V)(C V)^T = C P C^T: a change of
    # origin needs no further pass over the weights.
    combination = torch.eye(count, count + 2, dtype=torch.float64)
    combination[:, count], combination[:, count + 1] = times_mean, times_theta0
    return combination @ products @ combination.t()


def _cosines(gram: Tensor) -> Tensor:
    norms = gram.diagonal().clamp(min=0).sqrt()
    lengths = (norms[:, None] * norms[None, :]).clamp(min=torch.finfo(torch.float64).tiny)
    return (gram / lengths).clamp(-1, 1)


def diagnose(ingredients: IngredientSet, score: Score, theta0: Mapping[str, Tensor] | None = None) -> Diagnosis:
    """Measure directions and the barriers between each ingredient and the uniform soup.

    Memory does not grow with the models' size.

    Args:
        ingredients: K fine-tuned models.
        score: Accuracy of weights, such as `accuracy_scorer`; called 2 K + 1 times.
        theta0: Where directions are measured from: the weights that all ingredients started from, by name; None: their
            mean.

    Raises:
        SoupError: theta0 lacks a tensor of the ingredients.
    """
    count = len(ingredients)
    gram = _gram(_products(ingredients, theta0), count, 0, 0 if theta0 is None else -1)
    norms = gram.diagonal().clamp(min=0).sqrt()
    angles = torch.rad2deg(torch.acos(_cosines(gram)))

    uniform = torch.full((count, 1), 1 / count, dtype=torch.float64)

    def accuracy(coefficients: Tensor) -> float:
        return float(score(soup_from_coefficients(ingredients, coefficients, ("model",))) or 0.0)

    soup_accuracy = accuracy(uniform)
    accuracies, barriers = [], []
    for one_hot in torch.eye(count, dtype=torch.float64):
        accuracies.append(accuracy(one_hot[:, None]))
        half_way = accuracy((uniform + one_hot[:, None]) / 2)
        barriers.append((accuracies[-1] + soup_accuracy) / 2 - half_way)
    return Diagnosis(
        "mean" if theta0 is None else "theta0",
        ingredients.paths,
        norms,
        angles,
        tuple(accuracies),
        soup_accuracy,
        tuple(barriers),
    )
