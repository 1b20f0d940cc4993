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


def diagnose(ingredients: IngredientSet, score: Score, theta0: Mapping[str, Tensor] | None = None) -> Diagnosis:
    """Measure directions from theta0, or from the mean where it is not given, and barriers to the uniform soup.

    Takes 2 K + 1 passes of ``score`` over the images; memory does not grow with the models' size.
    """
    count = len(ingredients)
    gram = torch.zeros(count, count, dtype=torch.float64)
    for name in mixed_tensors(ingredients, theta0):
        origin = ingredients.mean_tensor(name) if theta0 is None else theta0[name].cpu()
        flat = origin.reshape(-1)
        size = max(_PIECE_ENTRIES // count, 1)
        for start in range(0, flat.numel(), size):
            piece = slice(start, start + size)
            rows = torch.stack([ingredients.tensor(k, name).view(-1)[piece] for k in range(count)]).double()
            rows -= flat[piece]
            gram += rows @ rows.t()
    norms = gram.diagonal().clamp(min=0).sqrt()
    lengths = (norms[:, None] * norms[None, :]).clamp(min=torch.finfo(torch.float64).tiny)
    angles = torch.rad2deg(torch.acos((gram / lengths).clamp(-1, 1)))

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
