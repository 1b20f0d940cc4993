"""Progress of a soup on disk, so that a killed one goes on from its last finished block."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipeline.errors import IngredientError
from pipeline.files import replacing
from pipeline.soups.ingredient_file import IngredientFile, open_file

log = logging.getLogger("pipeline.soups")

# What is raised by no safetensors file, one of something else, and progress of another version of this module.
_UNREADABLE = (IngredientError, SafetensorError, KeyError, TypeError, ValueError)
# Fields of Progress that are kept as tensors, the soup's by their names after the prefix; the others in the header.
_TENSORS = {"alpha", "losses", "soup"}
_SOUP = "soup/"


@dataclass(frozen=True)
class Progress:
    """Where `mehl_soup` stands after some blocks.

    Attributes:
        blocks_done: How many of the T blocks are trained.
        alpha: Their coefficients (K, L) in float64; see `Hyperplane`.
        losses: One for each step so far.
        soup: The mixed tensors of the soup, by name.
        block_size: The b that was planned; memory measured anew might plan another.
        delta_dtype: The type of the directions that was planned.
        seconds: Spent on these blocks, in all attempts.
        peak_memory_bytes: The largest of all attempts.
        peak_reserved_bytes: Likewise; None where there is no such thing.
        micro_batch_size: The images in a forward pass that were planned; None: all of a batch.
    """

    blocks_done: int
    alpha: Tensor
    losses: tuple[float, ...]
    soup: Mapping[str, Tensor]
    block_size: int
    delta_dtype: str | None
    seconds: float
    peak_memory_bytes: int
    peak_reserved_bytes: int | None = None
    micro_batch_size: int | None = None


def save_progress(path: Path, identity: str, progress: Progress) -> None:
    """Replace the file at once, so that a kill leaves the old or the new progress, never half of one."""
    tensors = {_SOUP + name: tensor.detach().cpu() for name, tensor in progress.soup.items()}
    tensors["alpha"] = progress.alpha
    tensors["losses"] = torch.tensor(progress.losses, dtype=torch.float64)
    header = {field.name: getattr(progress, field.name) for field in fields(progress) if field.name not in _TENSORS}
    with replacing(path) as partial:
        save_file(tensors, partial, metadata={"progress": json.dumps({"identity": identity, **header})})


def load_progress(path: Path, identity: str) -> Progress | None:
    """The progress of the same soup; None where there is none, or only one of other ingredients, settings or data."""
    if not path.exists():
        return None
    try:
        file, header = _open(path)
        if header.pop("identity") != identity:
            log.info("%s belongs to another soup (settings, data or ingredients differ); starting anew", path)
            return None
        return Progress(
            **header,
            alpha=file.tensor("alpha").clone(),
            losses=tuple(file.tensor("losses").tolist()),
            soup={name.removeprefix(_SOUP): file.tensor(name) for name in file.specs if name.startswith(_SOUP)},
        )
    except _UNREADABLE as error:
        log.warning("%s cannot be read (%s); starting anew", path, error)
        return None


def blocks_done(path: Path) -> int | None:
    """How many blocks of a soup its ``checkpoint`` has, from the file alone.

    Args:
        path: The file; it need not be there.

    Returns:
        The number of blocks, or None where there is no progress that can be read.
    """
    try:
        return int(_open(path)[1]["blocks_done"])
    except _UNREADABLE:
        return None


def _open(path: Path) -> tuple[IngredientFile, dict[str, Any]]:
    """The file with its tensors, and the identity and the plain fields of Progress from its header."""
    file = open_file(path)
    return file, dict(json.loads(file.metadata["progress"]))
