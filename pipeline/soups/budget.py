"""A memory budget kept: how many models a block may have, and in which type their directions are stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import SoupError
from pipeline.soups.descent import Descent, soup_gradient
from pipeline.soups.fit_data import Batch
from pipeline.soups.hyperplane import Hyperplane
from pipeline.soups.measure import Cost, measured
from pipeline.soups.packed import DELTA_DTYPES

log = logging.getLogger("pipeline.soups")

_GIB = 1 << 30
# What the sum of the parts does not see: freed memory that the allocator keeps, scratch, the interpreter.
_SLACK_BYTES, _SLACK_PART = 32 << 20, 0.1
# Blocks smaller than this converge slowly (Theorem 3): rather store directions in a smaller type (8 as in the paper).
_WANTED_MODELS = 8


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
    cost: Cost,
) -> BlockPlan:
    """The largest block that keeps the peak within the budget, measured by one trial step.

    Directions stay in the stored type if that leaves room for a block of eight, else bfloat16, else int8, unless
    ``delta_dtype`` or ``block_size`` are given. Raises SoupError with the smallest budget that would do.
    """
    rest = _without_directions(plane, batch, descent, cost)
    room = budget_gib * _GIB / (1 + _SLACK_PART) - _SLACK_BYTES - rest
    count = len(plane.ingredients)
    wanted = min(count, _WANTED_MODELS if block_size == "auto" else block_size)
    names: list[str | None] = [delta_dtype] if delta_dtype else [None, "bfloat16", "int8"]
    plan, per_model = BlockPlan(0, names[-1]), 0
    for name in names:
        per_model = direction_bytes(plane, name)
        plan = BlockPlan(min(int(room // per_model), count), name)
        if plan.block_size >= wanted:
            break
    least = wanted if block_size != "auto" else 1
    if room < 0 or plan.block_size < least:
        # A trial step does not measure the same twice: what is called enough has to be enough next time.
        smallest = ((rest + least * per_model) * 1.15 + _SLACK_BYTES) * (1 + _SLACK_PART) / _GIB
        raise SoupError(
            f"memory_budget_gib {budget_gib:g} is too small: the soup, gradients and graph take "
            f"{rest / _GIB:.3f} GiB, a direction {per_model / _GIB:.3f} in {plan.delta_dtype or 'the stored type'}; "
            f"{smallest + 0.005:.2f} would do for a block of {least}"
        )
    if block_size != "auto":
        plan = BlockPlan(wanted, plan.delta_dtype)
    log.info(
        "memory budget %.3g GiB: blocks of %d models, directions in %s, about %.3g GiB in all",
        budget_gib,
        plan.block_size,
        plan.delta_dtype or "the stored type",
        (rest + plan.block_size * per_model + _SLACK_BYTES) * (1 + _SLACK_PART) / _GIB,
    )
    return plan


def direction_bytes(plane: Hyperplane, delta_dtype: str | None) -> int:
    """Bytes of one direction in the type it is stored in."""
    total = 0
    for name, slot in plane.mixed.items():
        stored = plane.ingredients.tensor(0, name).dtype if delta_dtype is None else DELTA_DTYPES[delta_dtype]
        total += slot.numel() * stored.itemsize
    return max(total, 1)


def _without_directions(plane: Hyperplane, batch: Batch, descent: Descent, cost: Cost) -> int:
    """Bytes of everything but the directions: in use already, the fixed part, one step's graph, temporary tensors."""
    in_use = cost.in_use()
    with measured(cost.device) as trial:
        soup_gradient(plane.model, plane.parameters, batch, descent)
    step = trial.peak_memory_bytes - (in_use if cost.peak_memory_kind == "cuda" else 0)
    fixed = _bytes(plane.mixed)
    rebuilt = sum(plane.ingredients.tensor(0, name).nbytes for name in plane.ingredients.names)
    return in_use + max(fixed + max(step, _bytes(plane.parameters)), rebuilt)


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def storage_type(name: str | None) -> torch.dtype | None:
    """The torch type of a ``delta_dtype``."""
    return None if name is None else DELTA_DTYPES[name]
