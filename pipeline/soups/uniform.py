"""Uniform soup: the mean of all ingredients (Eq. 1 of the MEHL-Soup paper)."""

from __future__ import annotations

import torch

from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.measure import measured
from pipeline.soups.rebuild import soup_from_coefficients
from pipeline.soups.soup import Soup, costed


def uniform_soup(ingredients: IngredientSet) -> Soup:
    """The mean of all K ingredients, each with coefficient 1/K; looks at no image (Eq. 1 of the MEHL-Soup paper).

    Args:
        ingredients: K fine-tuned models.
    """
    with measured("cpu") as cost:
        count = len(ingredients)
        coefficients = torch.full((count, 1), 1.0 / count, dtype=torch.float64)
        weights = soup_from_coefficients(ingredients, coefficients, ("model",))
    return costed(Soup("uniform", weights, coefficients, ("model",), tuple(range(count))), cost)
