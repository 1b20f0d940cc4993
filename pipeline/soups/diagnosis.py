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
    """Geometry and barriers of K ingredients around ``origin`` (``theta0`` or ``mean``).

    ``norms`` (K) are the lengths of the directions theta_k - origin, ``angles`` (K, K) the angles between them in
    degrees (about 90 is usual for fine-tuned models). ``accuracies`` (K) are those of the ingredients,
    ``soup_accuracy`` that of their mean. ``barriers`` (K) is the accuracy lost half way between an ingredient and the
    mean, against the average of its ends: above 0 there is a hill between them.
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

    ``weights`` are those of the weights themselves, ``from_mean`` of their directions from the mean (Eq. 3: what
    decentralization makes of them, App. D of the MEHL-Soup paper), ``from_theta0`` from theta0, None without it.
    """

    weights: Tensor
    from_mean: Tensor
    from_theta0: Tensor | None


def cosine_similarities(ingredients: IngredientSet, theta0: Mapping[str, Tensor] | None = None) -> Similarities:
    """All pairs in one pass over the files; memory does not grow with the models' size."""
    products = _products(ingredients, theta0)
    return Similarities(
        weights=_cosines(_gram(products, len(ingredients), +1, 0)),
        from_mean=_cosines(_gram(products, len(ingredients), 0, 0)),
        from_theta0=None if theta0 is None else _cosines(_gram(products, len(ingredients), 0, -1)),
    )


def _products(ingredients: IngredientSet, theta0: Mapping[str, Tensor] | None) -> Tensor:
    """Inner products (K + 2, K + 2) of the directions from the mean, the mean, and theta0 seen from the mean (or 0)."""
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
            stacked = torch.stack([*(row.double() for row in rows), mean[piece].double(), origin[piece].double()])
            stacked[:count] -= stacked[count]
            stacked[count + 1] -= stacked[count]
            products += stacked @ stacked.t()
    return products


def _gram(products: Tensor, count: int, mean: int, theta0: int) -> Tensor:
    """Inner products (K, K) of the directions from the mean, each with so many times the mean and theta0 added."""
    change = torch.eye(count, count + 2, dtype=torch.float64)
    change[:, count], change[:, count + 1] = mean, theta0
    return change @ products @ change.t()


def _cosines(gram: Tensor) -> Tensor:
    norms = gram.diagonal().clamp(min=0).sqrt()
    lengths = (norms[:, None] * norms[None, :]).clamp(min=torch.finfo(torch.float64).tiny)
    return (gram / lengths).clamp(-1, 1)


def diagnose(ingredients: IngredientSet, score: Score, theta0: Mapping[str, Tensor] | None = None) -> Diagnosis:
    """Measure directions from theta0, or from the mean where it is not given, and barriers to the uniform soup.

    Takes 2 K + 1 passes of ``score`` over the images; memory does not grow with the models' size.
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
