"""From mixing coefficients to weights, in one streaming pass of full precision (Eq. 4 of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.errors import SoupError
from pipeline.soups.ingredient_file import same_bits
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.layers import layer_indices
from pipeline.soups.streaming import weighted_sum


def soup_from_coefficients(
    ingredients: IngredientSet,
    coefficients: Tensor,
    layers: Sequence[str],
    theta0: Mapping[str, Tensor] | None = None,
    *,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """The weights sum_k c_k^l theta_k^l, in the ingredients' own dtypes (Eq. 4 of the MEHL-Soup paper).

    Sums run in float64 and leave out zero coefficients, so a one-hot column gives back that ingredient bit for bit.
    Tensors equal in all ingredients are copied. Integer tensors are those of the ingredient with the largest
    coefficients.

    Args:
        ingredients: K fine-tuned models.
        coefficients: (K, L), a column per layer.
        layers: The L names of the columns: of tensors, of modules, or ``model`` alone.
        theta0: The weights that all ingredients started from, by name; each layer then gets
            (1 - sum_k c_k^l) theta0^l besides (WiSE-FT).
        device: Where to sum, while the ingredients stream by: the same bits on all.

    Returns:
        A state dict on the CPU.

    Raises:
        SoupError: Shapes, layers or theta0 do not fit the ingredients.
    """
    if coefficients.shape != (len(ingredients), len(layers)):
        raise SoupError(
            f"coefficients have shape {tuple(coefficients.shape)}, but {len(ingredients)} ingredients and "
            f"{len(layers)} layers need {(len(ingredients), len(layers))}"
        )
    weights = coefficients.detach().to("cpu", torch.float64)
    mixed = mixed_tensors(ingredients, theta0)
    try:
        layer_of = layer_indices(mixed, layers)
    except KeyError as error:
        raise SoupError(f"tensor {error} is in none of the {len(layers)} layers; take those of the same soup") from None
    heaviest = int(weights.sum(dim=1).argmax())
    soup = {}
    for name in ingredients.names:
        if name in layer_of:
            origin = None if theta0 is None else theta0[name]
            soup[name] = _combine(ingredients, name, weights[:, layer_of[name]].tolist(), origin, device)
        else:
            soup[name] = ingredients.tensor(heaviest, name).clone()
    return soup


def mixed_tensors(ingredients: IngredientSet, theta0: Mapping[str, Tensor] | None) -> tuple[str, ...]:
    """Names of the tensors that differ among the ingredients and, if given, theta0."""
    if theta0 is None:
        return ingredients.varying
    missing = sorted(set(ingredients.floating) - set(theta0))
    if missing:
        raise SoupError(
            f"theta0 has no tensor {missing[0]!r}; give the initialisation that the ingredients started from"
        )
    varying = set(ingredients.varying)
    return tuple(
        name
        for name in ingredients.floating
        if name in varying or not same_bits(ingredients.tensor(0, name), theta0[name].cpu())
    )


def _combine(
    ingredients: IngredientSet, name: str, column: Sequence[float], origin: Tensor | None, device: str
) -> Tensor:
    """One tensor of the soup: its layer's ``column`` (K) of coefficients, and what they lack to one of ``origin``."""
    terms = [(weight, ingredients.tensor(k, name)) for k, weight in enumerate(column) if weight != 0]
    if origin is not None and (rest := 1.0 - sum(column)) != 0:
        terms.insert(0, (rest, origin.cpu()))
    like = ingredients.tensor(0, name)
    return weighted_sum(terms, torch.empty_like(like), device) if terms else torch.zeros_like(like)
