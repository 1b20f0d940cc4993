"""Search spaces as data, and the seeded list of trials drawn from one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import Distribution, SearchConfig, Space
from pipeline.records import Hyperparameters


def _constant(value: float | str) -> Distribution:
    return Distribution(choice=[value])


_PLAIN = {
    "weight_decay": _constant(0.1),
    "epochs": _constant(10),
    "batch_size": _constant(512),
    **{name: _constant(0) for name in ("label_smoothing", "mixup", "randaugment_m", "randaugment_n")},
    "cutmix": _constant(0),
    "ema_decay": _constant(0),
}
# App. J.2.1 of the model-soups paper. Tune's randint leaves out its upper bound.
_RANDOM = {
    **_PLAIN,
    "lr": Distribution(loguniform=(1e-6, 1e-4)),
    "weight_decay": Distribution(loguniform=(1e-4, 10**-0.2)),
    "epochs": Distribution(randint=(4, 17)),
    "label_smoothing": Distribution(uniform=(0.0, 0.25), probability=0.5),
    "mixup": Distribution(uniform=(0.0, 0.9), probability=0.5),
    "augmentation": Distribution(choice=["minimal", "randaugment", "randaugment"]),
    "randaugment_m": Distribution(randint=(0, 21)),
    "randaugment_n": Distribution(randint=(0, 3)),
}
# The same appendix, which leaves the weight decay of its grids open; 0.1 is the released code's.
_STANDARD_GRID = {
    **_PLAIN,
    "lr": Distribution(grid=[3e-5, 2e-5, 1e-5, 3e-6]),
    "augmentation": Distribution(grid=["minimal", "medium", "strong"]),
    "mixup": Distribution(grid=[0, 0.5]),
}
_EXTREME_GRID = {
    **_STANDARD_GRID,
    "lr": Distribution(grid=[3e-4, 1e-4, 3e-5, 2e-5, 1e-5, 3e-6, 1e-6, 1e-7]),
}
# App. B of the MEHL-Soup paper: CLIP ViT-L/14, "standard CLIP-style image preprocessing".
_VIT_L_14 = {
    **_PLAIN,
    "lr": Distribution(choice=[1e-6, 3e-6, 5e-6, 1e-5, 2e-5, 3e-5]),
    "weight_decay": Distribution(choice=[0, 0.001, 0.003, 0.005, 0.01, 0.03]),
    "batch_size": _constant(128),
    "augmentation": _constant("minimal"),
}
SPACES = {
    "random": Space(_RANDOM, num_trials=72),
    "standard-grid": Space(_STANDARD_GRID, num_trials=48),  # 24 combinations, two seeds
    "extreme-grid": Space(_EXTREME_GRID, num_trials=48, include_initialization=True),
    "vit-l-14": Space(_VIT_L_14, num_trials=32),
}
# What an augmentation says about RandAugment's M and N.
_RANDAUGMENT = {"minimal": (0, 0), "medium": (0, 0), "strong": (15, 2)}
_GRID_STREAM = 1  # keeps the order of a grid apart from the draws of a trial


@dataclass(frozen=True)
class Trial:
    """A point of the search space with its place in search order."""

    index: int
    hyper: Hyperparameters


def sample_trials(config: SearchConfig, seed: int) -> list[Trial]:
    """``config.num_trials`` trials in search order.

    A trial depends on ``seed`` and its index alone, so a larger sweep begins with the trials of a smaller one, whatever
    the concurrency. Grids are gone through in a random order, so that the first trials of a sweep are like the others;
    when all combinations have been, they come again in another order.
    """
    space = {**SPACES[config.space].distributions, **config.distributions}
    grids = {name: distribution.grid for name, distribution in space.items() if distribution.grid is not None}
    combinations = [dict(zip(grids, values, strict=True)) for values in itertools.product(*grids.values())]
    trials = []
    for index in range(config.num_trials):
        passes, place = divmod(index, len(combinations))
        order = np.random.default_rng([seed, passes, _GRID_STREAM]).permutation(len(combinations))
        random_state = np.random.RandomState(np.random.SeedSequence([seed, index]).generate_state(4))
        drawn: dict[str, Any] = {}
        for name in Hyperparameters.model_fields:
            drawn[name] = random_state.randint(2**31) if name == "seed" else _draw(space[name], random_state)
        drawn |= combinations[order[place]]
        if drawn["augmentation"] in _RANDAUGMENT:
            drawn["randaugment_m"], drawn["randaugment_n"] = _RANDAUGMENT[drawn["augmentation"]]
        trials.append(Trial(index, Hyperparameters(**drawn)))
    return trials


def _draw(distribution: Distribution, random_state: np.random.RandomState) -> Any:
    """Every call takes the same number of random numbers, so overriding one distribution leaves the others' draws."""
    keep = random_state.uniform() < distribution.probability
    quantile = np.random.RandomState(random_state.randint(2**31))
    if values := distribution.choice or distribution.grid:
        value: Any = values[quantile.randint(len(values))]
    else:
        from ray import tune  # slow to import, and most callers only want the names of the spaces

        kind = next(kind for kind in ("uniform", "loguniform", "randint") if getattr(distribution, kind) is not None)
        value = getattr(tune, kind)(*getattr(distribution, kind)).sample(random_state=quantile)
    return value if keep else 0
