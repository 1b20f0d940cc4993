"""Memory: budgets that are kept where no more can be had, and soups that run out of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from vision_transformers import build, normalised, pixels, write_ingredients

from gpu.lines import GIB, Line, Scale, at_most, holds
from gpu.processes import in_process, limit_memory, reserved_bytes, told
from pipeline.errors import SoupError
from pipeline.soups import METHODS, IngredientSet, MehlSettings, SoupInputs

# Transformer, models, images in a batch; the budgets in GiB.
SIZES: dict[Scale, tuple[str, int, int, tuple[float, ...]]] = {
    "full": ("b", 36, 128, (4, 6, 8)),
    "quick": ("b", 18, 128, (4,)),
    "tiny": ("xs", 4, 4, (0.2,)),
}
STEPS = 4  # in a block: the peak is reached in the first
BALLAST_BYTES = 2 * GIB


@dataclass(frozen=True)
class Made:
    """What is left of a soup when its process has ended; ``refusal`` says why there is none."""

    blocks: tuple[tuple[int, ...], ...] = ()
    losses: tuple[float, ...] = ()
    reserved_bytes: int = 0
    told: tuple[str, ...] = ()
    refusal: str = ""


def make(
    device: str, size: str, paths: list[Path], batch: int, settings: MehlSettings, limit_bytes: float, ballast: int
) -> Made:
    """A soup where this process may take ``limit_bytes`` of the GPU (0: all), beside ``ballast`` bytes of its own."""
    if limit_bytes:
        limit_memory(device, limit_bytes)
    beside = torch.empty(ballast, dtype=torch.uint8, device=device)
    inputs = SoupInputs(build(size), IngredientSet.open(paths), pixels(4 * batch), device=device, preprocess=normalised)
    with told("pipeline.soups") as messages:
        try:
            soup = METHODS["mehl-plus"](inputs, settings)
        except SoupError as error:
            return Made(told=tuple(messages), refusal=str(error))
    del beside
    return Made(soup.blocks, soup.history, reserved_bytes(device), tuple(messages))


def budgets(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """`memory_budget_gib` with blocks of any size, where the allocator gives no byte more; and the plan once more."""
    size, count, batch, gibs = SIZES[scale]
    paths = write_ingredients(folder / size, build(size), count, device)
    ballast = BALLAST_BYTES if device != "cpu" else 0
    for gib in gibs:
        settings = MehlSettings(
            block_size="auto", memory_budget_gib=gib, batch_size=batch, inner_iterations=STEPS, outer_iterations=3
        )
        limited = in_process(make, device, size, paths, batch, settings, gib * GIB, 0)
        plan = next((text for text in limited.told if text.startswith("memory budget")), limited.refusal)
        yield holds(f"a soup of {count} within {gib:g} GiB, enforced", bool(limited.blocks), plan, "it ends")
        yield at_most(f"reserved within {gib:g} GiB", limited.reserved_bytes / GIB, gib, "GiB")
        beside = in_process(make, device, size, paths, batch, settings, 0, ballast)
        measured = f"blocks of {[len(block) for block in limited.blocks]} and {[len(block) for block in beside.blocks]}"
        same = limited.blocks == beside.blocks != ()
        yield holds(f"plan for {gib:g} GiB beside {ballast / GIB:g} GiB of something else", same, measured, "the same")


def out_of_memory(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """A soup with room for a quarter of its batch, and one without room for its directions."""
    size, _, batch, _ = SIZES[scale]
    block = 4
    model = build(size)
    paths = write_ingredients(folder / size, model, block, device)

    def soup(micro_batch: int | None, limit_bytes: float) -> Made:
        settings = MehlSettings(
            block_size=block, batch_size=batch, inner_iterations=STEPS, micro_batch_size=micro_batch
        )
        return in_process(make, device, size, paths, batch, settings, limit_bytes, 0)

    quarter = soup(batch // 4, 0)
    forced = soup(None, 1.1 * quarter.reserved_bytes)
    halved = [text for text in forced.told if text.startswith("out of memory")]
    measured = halved[-1] if halved else forced.refusal or "it did not run out of memory"
    what = "a soup with room for a quarter of its batch"
    yield holds(f"{what} goes on", bool(halved and forced.losses), measured, "halved micro-batches")
    if forced.losses:
        apart = max(abs(a / b - 1) for a, b in zip(forced.losses, quarter.losses, strict=True))
        yield at_most(f"{what}: loss against that of micro-batches", apart, 0.01, note=f"of {forced.losses[-1]:.4f}")
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    refusal = soup(1, block / 2 * weights).refusal
    fulfilled = all(name in refusal for name in ("micro_batch_size", "delta_dtype", "memory_budget_gib"))
    what = "a soup without room for its directions"
    yield holds(f"{what} says what would help", fulfilled, refusal or "it was made", "names the settings")
