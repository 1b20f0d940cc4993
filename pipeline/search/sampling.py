"""The seeded list of trials that are drawn from a search space."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import SPACES, Distribution, SearchConfig
from pipeline.finetune import TRAINERS
from pipeline.records import Hyperparameters

# What an augmentation says about RandAugment's M and N.
_RANDAUGMENT = {"minimal": (0, 0), "medium": (0, 0), "strong": (15, 2)}
_GRID_STREAM = 1  # keeps the order of a grid apart from the draws of a trial


@dataclass(frozen=True)
class Trial:
    """A point of the search space with its position in search order."""

    index: int
    hyper: Hyperparameters


def sample_trials(config: SearchConfig, seed: int, meaningless: Collection[str] = ()) -> list[Trial]:
    """``config.num_trials`` trials in search order.

    A trial depends on ``seed`` and its index alone, so a larger sweep begins with the trials of a smaller one, whatever
    the concurrency. Grids are gone through in a random order, so that the first trials of a sweep are like the others;
    when all combinations have been, they come again in another order. What is ``meaningless`` for the kind of input
    (see `Kind`) is not given.
    """
    drawn_otherwise = {**SPACES[config.space].distributions, **config.distributions}
    space = {name: how for name, how in drawn_otherwise.items() if name not in meaningless}
    hyperparameters_type = TRAINERS[config.trainer].hyperparameters
    grids = {name: distribution.grid for name, distribution in space.items() if distribution.grid is not None}
    combinations = [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]
    trials = []
    for index in range(config.num_trials):
        # Each pass over the combinations has an order of its own; without grids there is one, the empty combination.
        pass_number, position = divmod(index, len(combinations))
        if position == 0:
            order = np.random.default_rng([seed, pass_number, _GRID_STREAM]).permutation(len(combinations))
        random_state = np.random.RandomState(np.random.SeedSequence([seed, index]).generate_state(4))
        drawn: dict[str, Any] = {}
        # A trainer's own come last, so that they leave the other draws as they are.
        for name, field in hyperparameters_type.model_fields.items():
            if name == "seed":
                drawn[name] = random_state.randint(2**31)
            elif name in space:
                drawn[name] = _draw(space[name], random_state)
            elif name not in meaningless:
                drawn[name] = field.default
        drawn |= combinations[order[position]]
        trials.append(Trial(index, hyperparameters_type(**with_randaugment(drawn))))
    return trials


def with_randaugment(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters with the M and N that the augmentation says, where it says any."""
    if drawn.get("augmentation") not in _RANDAUGMENT:
        return dict(drawn)
    magnitude, number = _RANDAUGMENT[drawn["augmentation"]]
    return {**drawn, "randaugment_m": magnitude, "randaugment_n": number}


def _draw(distribution: Distribution, random_state: np.random.RandomState) -> Any:
    """Every call takes the same number of random numbers, so overriding one distribution leaves the others' draws."""
    # Two from ``random_state``: whether the value is drawn at all, and the seed of a generator of its own, from which a
    # distribution may take as many as it likes.
    is_drawn = random_state.uniform() < distribution.probability
    own_state = np.random.RandomState(random_state.randint(2**31))
    if values := distribution.choice or distribution.grid:
        value: Any = values[own_state.randint(len(values))]
    else:
        from ray import tune  # slow to import, and most callers only want the names of the spaces

        name = next(name for name in ("uniform", "loguniform", "randint") if getattr(distribution, name) is not None)
        value = getattr(tune, name)(*getattr(distribution, name)).sample(random_state=own_state)
    return value if is_drawn else 0
