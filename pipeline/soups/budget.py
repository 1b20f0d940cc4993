"""A memory budget kept: how many models a block may have, how their directions are stored, how a batch is cut."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
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
_SLACK_BYTES, _SLACK_PART = 48 << 20, 0.1
# CUDA's context with the kernels of PyTorch, and the workspaces of its libraries.
_CONTEXT_BYTES = 640 << 20
# Blocks smaller than this converge slowly (Theorem 3): rather store directions in a smaller type (8 as in the paper).
_WANTED_MODELS = 8
_TYPES = (None, "bfloat16", "int8")
_CUTS = (1, 2, 4, 8, 16)  # of a batch
# Besides what a graph keeps, forward and backward pass so many tensors on, as large as the largest that is kept.
_PASSED_ON = 3


@dataclass(frozen=True)
class BlockPlan:
    """Models in a block, the type of their directions (None: as stored), and images in a forward pass (None: all)."""

    block_size: int
    delta_dtype: str | None
    micro_batch_size: int | None = None


def plan_within_budget(
    budget_gib: float,
    block_size: int | Literal["auto"],
    delta_dtype: str | None,
    plane: Hyperplane,
    batch: Batch,
    descent: Descent,
) -> BlockPlan:
    """The largest block that keeps the peak within the budget; two small trial steps show what a graph keeps.

    The budget bounds all that the soup takes of a GPU, CUDA's own context included; on a CPU, what it adds to the
    process.

    Directions stay in the stored type if a block of eight fits so, else bfloat16, else int8; and where not even that
    fits, batches are cut in halves, quarters and so on to a sixteenth; unless ``delta_dtype``, ``block_size`` or the
    micro-batch of ``descent`` are given.

    Args:
        budget_gib: Bound of the peak memory.
        block_size: Models in a block; ``auto``: as many as fit.
        delta_dtype: Type of the directions; None: chosen here.
        plane: Model and ingredients.
        batch: One as they will come, for the trial steps.
        descent: How the steps will be.

    Raises:
        SoupError: Nothing fits; says the smallest budget that would do.
    """
    count = len(plane.ingredients)
    wanted = min(count, _WANTED_MODELS if block_size == "auto" else block_size)
    least = wanted if block_size != "auto" else 1
    fixed_of = _without_directions(plane, batch, descent)
    sizes = {dtype: _direction_bytes(plane, dtype) for dtype in ([delta_dtype] if delta_dtype else _TYPES)}
    whole = len(batch[1])
    given = descent.micro_batch_size
    parts = [math.ceil(whole / cut) for cut in _CUTS] if given is None else [min(given, whole)]

    ways = list(itertools.product(parts, sizes))

    def total(way: tuple[int, str | None], models: int) -> float:
        return (fixed_of(way[0]) + models * sizes[way[1]] + _SLACK_BYTES) * (1 + _SLACK_PART)

    # The first that has room for the wanted models; else the one that takes least, as cutting a batch costs a sum.
    fitting = (way for way in ways if total(way, wanted) <= budget_gib * _GIB)
    way = next(fitting, min(ways, key=lambda way: total(way, wanted)))
    part, dtype = way
    size = max((models for models in range(count + 1) if total(way, models) <= budget_gib * _GIB), default=0)
    stored = dtype or "the stored type"
    at_a_time = "" if part >= whole else f", {part} images at a time"
    if size < least:
        raise SoupError(
            f"memory_budget_gib {budget_gib:g} is too small: the soup, gradients and graph take "
            f"{fixed_of(part) / _GIB:.3f} GiB{at_a_time}, a direction {sizes[dtype] / _GIB:.3f} in {stored}; "
            f"{math.ceil(total(way, least) / _GIB * 1000) / 1000:g} would do for a block of {least}"
        )
    size = size if block_size == "auto" else wanted
    log.info(
        "memory budget %.3g GiB: blocks of %d models, directions in %s%s, about %.3g GiB in all",
        *(budget_gib, size, stored, at_a_time, total(way, size) / _GIB),
    )
    return BlockPlan(size, dtype, part if part < whole else None)


def _direction_bytes(plane: Hyperplane, delta_dtype: str | None) -> int:
    """Bytes of one direction in the type it is stored in."""
    total = 0
    for name, size in zip(plane.layout.names, plane.layout.sizes, strict=True):
        stored = plane.ingredients.tensor(0, name).dtype if delta_dtype is None else DELTA_DTYPES[delta_dtype]
        total += size * stored.itemsize
    return max(total, 1)


def _without_directions(plane: Hyperplane, batch: Batch, descent: Descent) -> Callable[[int], float]:
    """Bytes of everything but the directions at the worst moment: of a step, of reading a block, or of rebuilding.

    The function that is returned gives them for so many images in a forward pass. They are added up from what the
    tensors are, on every device: what an allocator or the system tells depends on what else has happened in the
    process, and the same seed would not give the same blocks. On a CPU the model was there before and does not count.
    """
    graph = _graph_bytes(plane, batch, descent)
    gradients, soup = _bytes(plane.parameters.values()), plane.soup
    tensors = [plane.ingredients.tensor(0, name) for name in plane.ingredients.names]
    # Where a batch is cut, the sum of the gradients so far is there besides.
    sums = {True: gradients, False: 0}
    if soup.device.type != "cuda":
        # In the end the soup is rebuilt from its coefficients, when gradients and graph are gone.
        return lambda part: max(soup.nbytes + gradients + sums[part < len(batch[1])] + graph(part), _bytes(tensors))
    # There gradients are put together once the graph is gone; tensors that are read stand in two buffers in the stored
    # type and twice in the full one, those that are summed twice in float64. Images and their labels are the batch's.
    largest = max(tensors, key=Tensor.numel)
    reading = 2 * largest.nbytes + 2 * largest.numel() * torch.float64.itemsize
    state = plane.model.state_dict(keep_vars=True).values()
    model = soup.nbytes + _bytes(weight for weight in state if _address(weight) != _address(soup))
    always = _CONTEXT_BYTES + model + soup.nbytes + 2 * _bytes(batch)

    def at_the_worst(part: int) -> float:
        stepping = gradients + max(sums[part < len(batch[1])] + graph(part), gradients)
        return always + max(stepping, reading)

    return at_the_worst


def _graph_bytes(plane: Hyperplane, batch: Batch, descent: Descent) -> Callable[[int], float]:
    """Bytes of the graph of so many images: those of an eighth and of a quarter of the batch, carried on in a line.

    (The whole batch might not fit, and would then be cut by what is free.)
    """
    few, more = (math.ceil(len(batch[1]) / cut) for cut in (8, 4))
    kept_few, kept_more = (_kept_bytes(plane, (batch[0][:n], batch[1][:n]), descent) for n in (few, more))
    slope = (kept_more - kept_few) / max(more - few, 1)
    return lambda images: kept_more + slope * (images - more)


def _kept_bytes(plane: Hyperplane, batch: Batch, descent: Descent) -> int:
    """What forward and backward pass hold beside weights and gradients, by a trial step."""
    activations: dict[int, int] = {}  # by address, so that a tensor that is kept twice counts once

    def note(tensor: Tensor) -> Tensor:
        activations[_address(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        soup_gradient(plane.model, plane.parameters, batch, replace(descent, micro_batch_size=None))
    # The graph keeps weights too, which are there without it.
    for weight in plane.model.state_dict(keep_vars=True).values():
        activations.pop(_address(weight), None)
    return sum(activations.values()) + _PASSED_ON * max(activations.values(), default=0)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
