"""What a step of MEHL-Soup+ asks of the host: waits for the GPU, and launches beyond those of forward and backward."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from vision_transformers import build, images, write_ingredients

from gpu.lines import Line, Scale, at_most, holds
from gpu.processes import finish, stop_at_waits
from pipeline.precision import arithmetic
from pipeline.soups import IngredientSet, MehlSettings, mehl_soup
from pipeline.soups.packed import DELTA_DTYPES

# Transformer (all but XS have the 152 tensors of ViT-B/32), models in the block, images in a batch.
SIZES: dict[Scale, tuple[str, int, int]] = {"full": ("ti", 18, 32), "quick": ("ti", 18, 32), "tiny": ("xs", 2, 2)}
# The steps from FIRST to before LAST of STEPS are looked at, all in one pass over the images: a pass begins with a new
# order, which is drawn on the host.
FIRST, LAST, STEPS = 10, 20, 24
LAUNCHES = 20
BUDGET_GIB = 16


def without_waits(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """Steps with images on the device, and with images on the host, which a memory budget keeps there."""
    for dtype in DELTA_DTYPES:
        yield _waits(device, scale, folder, dtype, None)
    yield _waits(device, scale, folder, "bfloat16", BUDGET_GIB)


def _waits(device: str, scale: Scale, folder: Path, dtype: str, budget: float | None) -> Line:
    def watch(step: int) -> None:
        if step in (FIRST, LAST):
            stop_at_waits(device, step == FIRST)

    what = f"waits in a step, {dtype} directions, images on the {'device' if budget is None else 'host'}"
    try:
        _soup(device, scale, folder, dtype, budget, watch)
        found = None
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        found = next(frame for frame in reversed(frames) if "pipeline" in Path(frame.filename).parts)
    finally:
        stop_at_waits(device, False)
    measured = "none" if found is None else f"{Path(found.filename).name}:{found.lineno}: {found.line}"
    return holds(what, found is None, measured, f"none in {LAST - FIRST} steps")


def launches(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """Kernels, copies and fills of a step, less those of a plain forward and backward of the same model and batch."""
    size, _, batch = SIZES[scale]
    model, (pixels, labels) = build(size).to(device).eval(), images(batch, device)

    def plain() -> None:
        with arithmetic(torch.device(device), None):
            logits = model(pixels)
        torch.autograd.grad(functional.cross_entropy(logits.float(), labels), list(model.parameters()))

    plain()
    with _profile(device) as profiler:
        plain()
        finish(device)
    without = _count(profiler, device)
    for dtype in DELTA_DTYPES:
        profiler = _profile(device)

        def watch(step: int, profiler: profile = profiler) -> None:
            if step in (FIRST, LAST):
                finish(device)
                (profiler.start if step == FIRST else profiler.stop)()

        _soup(device, scale, folder, dtype, None, watch)
        extra = _count(profiler, device) / (LAST - FIRST) - without
        note = f"{without:g} for forward and backward"
        yield at_most(f"launches of a step with {dtype} directions beyond those", extra, LAUNCHES, note=note)


def _soup(
    device: str, scale: Scale, folder: Path, dtype: str, budget: float | None, watch: Callable[[int], None]
) -> None:
    """Learn the coefficients of one block; ``watch`` is told of every step at the moment when its batch is there."""
    size, block, batch = SIZES[scale]
    model, step = build(size), -1 if budget is None else -2  # under a budget the first batch is for a trial step

    def counting(pixels: Tensor) -> Tensor:
        nonlocal step
        step += 1
        watch(step)
        return pixels

    ingredients = IngredientSet.open(write_ingredients(folder / size, model, block))
    settings = MehlSettings(
        block_size=block, inner_iterations=STEPS, batch_size=batch, delta_dtype=dtype, memory_budget_gib=budget
    )
    soup = mehl_soup(model, ingredients, images(STEPS * batch), settings, device=device, preprocess=counting)
    assert len(soup.history) == STEPS <= step + 1, "each step has a batch of its own"


def _profile(device: str) -> profile:
    return profile(activities=[ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA])


def _count(profiler: profile, device: str) -> int:
    """What ran on the GPU; on a CPU whatever was profiled."""
    wanted = torch.autograd.DeviceType.CPU if device == "cpu" else torch.autograd.DeviceType.CUDA
    return sum(event.device_type == wanted and not event.is_user_annotation for event in profiler.events())
