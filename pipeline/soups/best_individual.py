"""The ingredient with the best accuracy on the fit images: what a sweep gives without souping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from pipeline.errors import SoupError
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.measure import measured
from pipeline.soups.rebuild import soup_from_coefficients
from pipeline.soups.scoring import Score, fit_scorer
from pipeline.soups.soup import Soup, SoupInputs, costed


def best_individual(
    ingredients: IngredientSet, score: Score | None = None, accuracies: Sequence[float] | None = None
) -> Soup:
    """The best ingredient, bit for bit; of equally good ones the first.

    Args:
        ingredients: K fine-tuned models.
        score: Measures the accuracy of weights, once for each ingredient; needed where ``accuracies`` are not known.
        accuracies: Those of the K ingredients, if known.

    Returns:
        A soup whose ``history`` is the best accuracy.

    Raises:
        SoupError: Neither a score nor K accuracies are there.
    """
    with measured("cpu") as cost:
        known = individual_accuracies(ingredients, score, accuracies)
        best = max(range(len(known)), key=known.__getitem__)
        coefficients = torch.zeros(len(ingredients), 1, dtype=torch.float64)
        coefficients[best] = 1.0
        weights = soup_from_coefficients(ingredients, coefficients, ("model",))
    soup = Soup(
        "best-individual",
        weights,
        coefficients,
        ("model",),
        (best,),
        history=(known[best],),
        epochs_of_trials=0 if accuracies is None else len(ingredients),
        own_statistics=True,
    )
    return costed(soup, cost)


def build_best_individual(inputs: SoupInputs, settings: None = None) -> Soup:
    """`best_individual` by accuracy on the fit images, as METHODS has it."""
    score = fit_scorer(inputs, recalibrate=False)  # an ingredient has the statistics it was trained with
    soup = best_individual(inputs.ingredients, score, inputs.accuracies)
    return replace(soup, epochs=score.passes)


def build_best_individual_renewed(inputs: SoupInputs, settings: None = None) -> Soup:
    """The same ingredient with its BatchNorm statistics renewed, as those of soups are: what renewing alone does."""
    return replace(build_best_individual(inputs), own_statistics=False)


def individual_accuracies(
    ingredients: IngredientSet, score: Score | None, known: Sequence[float] | None = None
) -> list[float]:
    """Accuracy of each ingredient: the ``known`` ones (K), else one pass over the images for each.

    Raises SoupError when not every ingredient has a known accuracy, or there is no score to measure them with.
    """
    if known is not None:
        if len(known) != len(ingredients):
            raise SoupError(f"{len(known)} accuracies for {len(ingredients)} ingredients; give one each, or none")
        return list(known)
    if score is None:
        raise SoupError("the accuracies of the ingredients are not known; give them, or a score to measure them with")
    return [float(score(ingredients.state_dict(k)) or 0.0) for k in range(len(ingredients))]
