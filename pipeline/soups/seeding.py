"""Random generators: one seed of the caller's, and a stream of its own for everything that is drawn."""

from __future__ import annotations

import numpy as np
import torch


def seeded(seed: int, *stream: int) -> torch.Generator:
    """A generator of its own for each purpose, so that no draw of one shifts those of another."""
    mixed = np.random.SeedSequence((seed, *stream)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed))
