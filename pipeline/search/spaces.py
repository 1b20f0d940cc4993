"""Search spaces as data, and the seeded list of trials drawn from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import Distribution, SearchConfig
from pipeline.records import Hyperparameters

# App. J.2.1 of the model-soups paper. Tune's randint leaves out its upper bound.
_RANDOM = {
    "lr": Distribution(loguniform=(1e-6, 1e-4)),
    "weight_decay": Distribution(loguniform=(1e-4, 10**-0.2)),
    "epochs": Distribution(randint=(4, 17)),
    "batch_size": Distribution(choice=[512]),
    "label_smoothing": Distribution(uniform=(0.0, 0.25), probability=0.5),
    "mixup": Distribution(uniform=(0.0, 0.9), probability=0.5),
    "augmentation": Distribution(choice=["minimal", "randaugment", "randaugment"]),
    "randaugment_m": Distribution(randint=(0, 21)),
    "randaugment_n": Distribution(randint=(0, 3)),
}
# App. B of the MEHL-Soup paper: CLIP ViT-L/14, "standard CLIP-style image preprocessing".
_VIT_L_14 = {
    **{name: Distribution(choice=[0]) for name in ("label_smoothing", "mixup", "randaugment_m", "randaugment_n")},
    "lr": Distribution(choice=[1e-6, 3e-6, 5e-6, 1e-5, 2e-5, 3e-5]),
    "weight_decay": Distribution(choice=[0, 0.001, 0.003, 0.005, 0.01, 0.03]),
    "epochs": Distribution(choice=[10]),
    "batch_size": Distribution(choice=[128]),
    "augmentation": Distribution(choice=["minimal"]),
}
SPACES: dict[str, Mapping[str, Distribution]] = {"random": _RANDOM, "vit-l-14": _VIT_L_14}


@dataclass(frozen=True)
class Trial:
    """A point of the search space with its place in search order."""

    index: int
    hyper: Hyperparameters


def sample_trials(config: SearchConfig, seed: int) -> list[Trial]:
    """``config.num_trials`` trials in search order.

    A trial depends on ``seed`` and its index alone, so a larger sweep begins with the trials of a smaller one, whatever
    the concurrency.
    """
    space = {**SPACES[config.space], **config.distributions}
    trials = []
    for index in range(config.num_trials):
        random_state = np.random.RandomState(np.random.SeedSequence([seed, index]).generate_state(4))
        drawn = {name: _draw(space[name], random_state) for name in SPACES["random"]}
        if drawn["augmentation"] == "minimal":
            drawn |= {"randaugment_m": 0, "randaugment_n": 0}
        trials.append(Trial(index, Hyperparameters(**drawn, seed=int(random_state.randint(2**31)))))
    return trials


def _draw(distribution: Distribution, random_state: np.random.RandomState) -> Any:
    """Every call takes the same number of random numbers, so overriding one distribution leaves the others' draws."""
    keep = random_state.uniform() < distribution.probability
    quantile = np.random.RandomState(random_state.randint(2**31))
    if distribution.choice is not None:
        value = distribution.choice[quantile.randint(len(distribution.choice))]
    else:
        from ray import tune  # slow to import, and most callers only want the names of the spaces

        kind = next(kind for kind in ("uniform", "loguniform", "randint") if getattr(distribution, kind) is not None)
        value = getattr(tune, kind)(*getattr(distribution, kind)).sample(random_state=quantile)
    return value if keep else 0
