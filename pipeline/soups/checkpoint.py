"""Progress of a soup on disk, so that a killed one goes on from its last finished block."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import IngredientError
from pipeline.files import replacing
from pipeline.soups.ingredient_file import open_file

log = logging.getLogger("pipeline.soups")


@dataclass(frozen=True)
class Progress:
    """What ``blocks_done`` blocks came to: alpha (K, L), losses so far, the soup's mixed tensors, the block plan."""

    blocks_done: int
    alpha: Tensor
    losses: tuple[float, ...]
    soup: Mapping[str, Tensor]
    block_size: int
    delta_dtype: str | None


def save_progress(path: Path, identity: str, progress: Progress) -> None:
    """Replace the file at once, so that a kill leaves the old or the new progress, never half of one."""
    tensors = {f"soup/{name}": tensor.detach().cpu() for name, tensor in progress.soup.items()}
    tensors["alpha"] = progress.alpha
    tensors["losses"] = torch.tensor(progress.losses, dtype=torch.float64)
    state = {
        "identity": identity,
        "blocks_done": progress.blocks_done,
        "block_size": progress.block_size,
        "delta_dtype": progress.delta_dtype,
    }
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"progress": json.dumps(state)})


def load_progress(path: Path, identity: str) -> Progress | None:
    """The progress of the same soup; None where there is none, or only one of other ingredients, settings or data."""
    if not path.exists():
        return None
    try:
        file = open_file(path)
        state = json.loads(file.metadata["progress"])
        if state["identity"] != identity:
            log.info("%s belongs to another soup (settings, data or ingredients differ); starting anew", path)
            return None
        soup = {name.removeprefix("soup/"): file.tensor(name) for name in file.specs if name.startswith("soup/")}
        losses = tuple(file.tensor("losses").tolist())
        alpha = file.tensor("alpha").clone()
        return Progress(state["blocks_done"], alpha, losses, soup, state["block_size"], state["delta_dtype"])
    except (IngredientError, KeyError, ValueError) as error:
        log.warning("%s cannot be read (%s); starting anew", path, error)
        return None
