"""A memory budget kept: how many models a block may have, and in which type their directions are stored."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import SoupError
from pipeline.soups.descent import Descent, soup_gradient
from pipeline.soups.fit_data import Batch
from pipeline.soups.hyperplane import Hyperplane
from pipeline.soups.packed import DELTA_DTYPES

log = logging.getLogger("pipeline.soups")

_GIB = 1 << 30
# What the sum of the parts does not see: freed memory that the allocator keeps, scratch, the interpreter.
_SLACK_BYTES, _SLACK_PART = 32 << 20, 0.1
# CUDA's context with the kernels of PyTorch, and the workspaces of its libraries.
_CONTEXT_BYTES = 640 << 20
# Blocks smaller than this converge slowly (Theorem 3): rather store directions in a smaller type (8 as in the paper).
_WANTED_MODELS = 8
# Besides what a graph keeps, forward and backward pass so many tensors on, as large as the largest that is kept.
_PASSED_ON = 3


@dataclass(frozen=True)
class BlockPlan:
    """Models in a block, and the type of their directions (None: as the ingredients are stored)."""

    block_size: int
    delta_dtype: str | None


def plan_within_budget(
    budget_gib: float,
    block_size: int | Literal["auto"],
    delta_dtype: str | None,
    plane: Hyperplane,
    batch: Batch,
    descent: Descent,
) -> BlockPlan:
    """The largest block that keeps the peak within the budget; one trial step shows what a graph keeps.

    The budget bounds all that the soup takes of a GPU, CUDA's own context included; on a CPU, what it adds to the
    process.

    Directions stay in the stored type if a block of eight fits so, else bfloat16, else int8, unless ``delta_dtype`` or
    ``block_size`` are given.

    Args:
        budget_gib: Bound of the peak memory.
        block_size: Models in a block; ``auto``: as many as fit.
        delta_dtype: Type of the directions; None: chosen here.
        plane: Model and ingredients.
        batch: One as they will come, for the trial step.
        descent: How the steps will be.

    Raises:
        SoupError: Nothing fits; says the smallest budget that would do.
    """
    fixed_bytes = _without_directions(plane, batch, descent)
    bytes_left = budget_gib * _GIB / (1 + _SLACK_PART) - _SLACK_BYTES - fixed_bytes
    count = len(plane.ingredients)
    wanted = min(count, _WANTED_MODELS if block_size == "auto" else block_size)
    dtypes: list[str | None] = [delta_dtype] if delta_dtype else [None, "bfloat16", "int8"]
    plan, per_model = BlockPlan(0, dtypes[-1]), 0
    for dtype in dtypes:
        per_model = _direction_bytes(plane, dtype)
        plan = BlockPlan(min(int(bytes_left // per_model), count), dtype)
        if plan.block_size >= wanted:
            break
    least = wanted if block_size != "auto" else 1
    if bytes_left < 0 or plan.block_size < least:
        smallest_gib = (fixed_bytes + least * per_model + _SLACK_BYTES) * (1 + _SLACK_PART) / _GIB
        raise SoupError(
            f"memory_budget_gib {budget_gib:g} is too small: the soup, gradients and graph take "
            f"{fixed_bytes / _GIB:.3f} GiB, a direction {per_model / _GIB:.3f} in "
            f"{plan.delta_dtype or 'the stored type'}; "
            f"{math.ceil(smallest_gib * 1000) / 1000:g} would do for a block of {least}"
        )
    if block_size != "auto":
        plan = BlockPlan(wanted, plan.delta_dtype)
    log.info(
        "memory budget %.3g GiB: blocks of %d models, directions in %s, about %.3g GiB in all",
        budget_gib,
        plan.block_size,
        plan.delta_dtype or "the stored type",
        (fixed_bytes + plan.block_size * per_model + _SLACK_BYTES) * (1 + _SLACK_PART) / _GIB,
    )
    return plan


def _direction_bytes(plane: Hyperplane, delta_dtype: str | None) -> int:
    """Bytes of one direction in the type it is stored in."""
    total = 0
    for name, size in zip(plane.layout.names, plane.layout.sizes, strict=True):
        stored = plane.ingredients.tensor(0, name).dtype if delta_dtype is None else DELTA_DTYPES[delta_dtype]
        total += size * stored.itemsize
    return max(total, 1)


def _without_directions(plane: Hyperplane, batch: Batch, descent: Descent) -> int:
    """Bytes of everything but the directions at the worst moment: of a step, of reading a block, or of rebuilding.

    They are added up from what the tensors are, on every device: what an allocator or the system tells depends on what
    else has happened in the process, and the same seed would not give the same blocks. On a CPU the model was there
    before and does not count.
    """
    activations: dict[int, int] = {}  # by address, so that a tensor that is kept twice counts once

    def note(tensor: Tensor) -> Tensor:
        activations[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        soup_gradient(plane.model, plane.parameters, batch, descent)
    # The graph keeps weights too, which are there without it.
    state = plane.model.state_dict(keep_vars=True).values()
    for weight in state:
        activations.pop(_address(weight), None)
    graph = sum(activations.values()) + _PASSED_ON * max(activations.values(), default=0)
    gradients = _bytes(plane.parameters.values())
    tensors = [plane.ingredients.tensor(0, name) for name in plane.ingredients.names]
    if plane.soup.device.type != "cuda":
        # In the end the soup is rebuilt from its coefficients, when gradients and graph are gone.
        return max(plane.soup.nbytes + gradients + graph, _bytes(tensors))
    # There gradients are put together once the graph is gone; tensors that are read stand in two buffers in the stored
    # type and twice in the full one, those that are summed twice in float64. Images and their labels are the batch's.
    largest = max(tensors, key=Tensor.numel)
    reading = 2 * largest.nbytes + 2 * largest.numel() * torch.float64.itemsize
    model = plane.soup.nbytes + _bytes(weight for weight in state if _address(weight) != _address(plane.soup))
    images = 2 * _bytes(batch)
    return _CONTEXT_BYTES + model + plane.soup.nbytes + images + max(gradients + max(graph, gradients), reading)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
