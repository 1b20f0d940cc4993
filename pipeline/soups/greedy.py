"""Greedy soup: ingredients join one after the other if accuracy allows (Recipe 1 of the model-soups paper)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import SoupError
from pipeline.soups.best_individual import individual_accuracies
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.measure import measured
from pipeline.soups.rebuild import soup_from_coefficients
from pipeline.soups.scoring import Score, fit_scorer
from pipeline.soups.settings import Check
from pipeline.soups.soup import Soup, SoupInputs, costed, nonzero_rows
from pipeline.soups.streaming import on_device

log = logging.getLogger("pipeline.soups")

Order = Literal["accuracy", "random"]
Ties = Literal["accept", "reject"]


@dataclass(frozen=True)
class GreedySettings:
    """Settings of the greedy soup and the greedy ensemble; problems raise one ValueError."""

    order: Order = "accuracy"
    """Best first, as in the paper, or ``random`` (Table 3 of the model-soups paper), drawn from the seed."""

    ties: Ties = "accept"
    """Whether an ingredient that leaves accuracy as it is joins: ``accept`` as in the paper, ``reject`` as its code."""

    sweeps: int = 1
    """How often the order is gone through; above 1 an ingredient may join again (with replacement, App. I)."""

    def __post_init__(self) -> None:
        check = Check(self)
        check.one_of("order", ("accuracy", "random"))
        check.one_of("ties", ("accept", "reject"))
        check.integer("sweeps", at_least=1)
        check.done()


def greedy_soup(
    ingredients: IngredientSet,
    score: Score,
    order: Sequence[int] | None = None,
    ties: Ties = "accept",
    *,
    accuracies: Sequence[float] | None = None,
    sweeps: int = 1,
    device: str = "cpu",
) -> Soup:
    """Go through the ingredients and average in each one that keeps the accuracy (Recipe 1 of the model-soups paper).

    With known ``accuracies`` the first sweep takes at most K - 1 passes over the images, else K (given ``order``) or
    2K - 1. The running sum is float64 (float32 where the device has none).

    Args:
        ingredients: K fine-tuned models.
        score: Accuracy of weights; ``score(state_dict, at_least)`` may return None as soon as that is out of reach.
        order: The ingredients to try, by index, each at most once; None: all, by decreasing accuracy.
        ties: Whether one that leaves accuracy as it is joins: ``accept``, or ``reject`` if it has to rise.
        accuracies: Those of the K ingredients, if known.
        sweeps: How often the order is gone through; from the second on an ingredient may join again.
        device: Where candidates are averaged.

    Returns:
        A soup whose ``history`` holds the accuracy after each ingredient that joined.

    Raises:
        SoupError: ``order`` or ``accuracies`` do not fit the ingredients.
    """
    known = 0 if accuracies is None else len(ingredients)
    with measured(device) as cost:
        passes = 0
        if order is None or accuracies is not None:  # else the accuracy of the first alone is needed
            passes = len(ingredients) if accuracies is None else 0
            accuracies = individual_accuracies(ingredients, score, accuracies)
        sequence = list(order) if order is not None else by_accuracy(accuracies or ())
        _check_order(sequence, len(ingredients))
        first = sequence[0]
        if accuracies is None:
            best = float(score(ingredients.state_dict(first)) or 0.0)
            passes += 1
        else:
            best = accuracies[first]
        counts = [0] * len(ingredients)
        counts[first] = 1
        history = [best]
        total = _RunningSum(ingredients, first, device)
        for sweep in range(sweeps):
            joined = 0
            for k in sequence[1:] if sweep == 0 else sequence:
                at_least = best if ties == "accept" else math.nextafter(best, math.inf)
                accuracy = score(total.mean_with(k), at_least=at_least)
                passes += 1
                if accuracy is None or accuracy < at_least:
                    continue
                total.add(k)
                counts[k] += 1
                joined += 1
                best = accuracy
                history.append(best)
                log.info("greedy soup: ingredient %d joins as number %d, score %.4f", k, sum(counts), best)
            if joined == 0:
                break
        coefficients = torch.tensor(counts, dtype=torch.float64)[:, None] / sum(counts)
        weights = soup_from_coefficients(ingredients, coefficients, ("model",), device=device)
    soup = Soup(
        "greedy",
        weights,
        coefficients,
        ("model",),
        nonzero_rows(coefficients),
        history=tuple(history),
        epochs=passes,
        epochs_of_trials=known,
    )
    return costed(soup, cost)


def build_greedy(inputs: SoupInputs, settings: GreedySettings) -> Soup:
    """`greedy_soup` by accuracy on the fit images, as METHODS has it.

    A candidate's BatchNorm statistics are renewed before it is scored. An ingredient has its own in the accuracies that
    give the order; the first is scored with renewed ones too, and the better of both is what candidates have to reach,
    or else the second could join for what renewing does alone. A soup of the first alone has the better statistics.
    """
    count = len(inputs.ingredients)
    score_alone, score = fit_scorer(inputs, recalibrate=False), fit_scorer(inputs)
    accuracies = individual_accuracies(inputs.ingredients, score_alone, inputs.accuracies)
    order = random_order(count, inputs.seed) if settings.order == "random" else by_accuracy(accuracies)
    first, own_statistics = order[0], True
    if inputs.recalibrate is not None:
        renewed = float(score(inputs.ingredients.state_dict(first)) or 0.0)
        own_statistics = renewed <= accuracies[first]
        accuracies[first] = max(renewed, accuracies[first])
    soup = greedy_soup(
        inputs.ingredients,
        score,
        order=order,
        ties=settings.ties,
        accuracies=accuracies,
        sweeps=settings.sweeps,
        device=inputs.device,
    )
    return replace(
        soup,
        epochs=score_alone.passes + score.passes,
        epochs_of_trials=0 if inputs.accuracies is None else count,
        own_statistics=len(soup.selected) == 1 and own_statistics,
    )


def by_accuracy(accuracies: Sequence[float]) -> list[int]:
    """Indices by decreasing accuracy, equal ones in the given order."""
    return sorted(range(len(accuracies)), key=lambda k: -accuracies[k])


def random_order(count: int, seed: int) -> list[int]:
    """A permutation drawn from the seed."""
    order: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order


def _check_order(order: Sequence[int], count: int) -> None:
    if not order or len(set(order)) != len(order) or not set(order) <= set(range(count)):
        raise SoupError(f"order {list(order)} is not made of different ingredients out of 0 to {count - 1}")


class _RunningSum:
    """The sum of the ingredients that have joined: a candidate costs the reading of one ingredient, not of all."""

    def __init__(self, ingredients: IngredientSet, first: int, device: str) -> None:
        self.ingredients, self.device, self.count = ingredients, device, 1
        wide = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.shared = ingredients.state_dict(first)
        self.sums = {name: self.shared[name].to(device, wide, copy=True) for name in ingredients.varying}

    def mean_with(self, k: int) -> dict[str, Tensor]:
        """The soup if ingredient ``k`` joined."""
        candidate = dict(self.shared)
        for (name, total), tensor in zip(self.sums.items(), self._read(k), strict=True):
            candidate[name] = ((total + tensor) / (self.count + 1)).to(tensor.dtype)
        return candidate

    def add(self, k: int) -> None:
        """Ingredient ``k`` joins."""
        self.count += 1
        for total, tensor in zip(self.sums.values(), self._read(k), strict=True):
            total += tensor

    def _read(self, k: int) -> Iterator[Tensor]:
        return on_device((self.ingredients.tensor(k, name) for name in self.sums), self.device)
