"""Logit ensemble: the mean of all members' logits; as many models at inference as there are members."""

from __future__ import annotations

import torch

from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.soup import Soup


def ensemble(ingredients: IngredientSet) -> Soup:
    """All K ingredients as members of equal weight; there are no mixed weights, so ``state_dict`` is None.

    Args:
        ingredients: K fine-tuned models.
    """
    count = len(ingredients)
    coefficients = torch.full((count, 1), 1.0 / count, dtype=torch.float64)
    return Soup("ensemble", None, coefficients, ("model",), tuple(range(count)))
