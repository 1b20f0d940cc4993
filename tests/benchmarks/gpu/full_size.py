"""Table 1 of the MEHL-Soup paper at full size, by the benchmarks that have a script of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vision_transformers import build, write_ingredients

from gpu.lines import GIB, Line, Scale, at_least, at_most, holds
from gpu.processes import run_script
from pipeline.soups.packed import DELTA_DTYPES

STEP_OVER_FLOOR, SOUP_SECONDS, SOUP_GIB, GREEDY_RATIO = 1.15, 60, 8, 5
# Transformer, models in a block, images in a batch, rounds.
STEPS: dict[Scale, tuple[str, int, int, int]] = {
    "full": ("b", 18, 128, 9),
    "quick": ("b", 18, 128, 3),
    "tiny": ("xs", 2, 2, 1),
}
# Transformer, models, models in a block, steps in a block, images in a batch, images (five passes take the steps), and
# the types with their memory budgets in GiB: float32 directions need more than the aim of bfloat16.
WHOLE: dict[Scale, tuple[str, int, int, int, int, int, dict[str, float]]] = {
    "full": ("b", 72, 18, 1015, 128, 203 * 128, {"bfloat16": SOUP_GIB, "int8": SOUP_GIB, "float32": 12}),
    "quick": ("b", 18, 18, 1015, 128, 16 * 128, {"bfloat16": SOUP_GIB}),
    "tiny": ("xs", 4, 2, 2, 4, 8, {"bfloat16": SOUP_GIB}),
}
# Transformer, models, images, images in a batch.
GREEDY: dict[Scale, tuple[str, int, int, int]] = {
    "full": ("b", 16, 2048, 128),
    "quick": ("b", 8, 512, 128),
    "tiny": ("xs", 3, 4, 2),
}
DECODERS = 8  # as many processes as decode in the released code


def step(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """`soup_step` in each type of directions."""
    size, block, batch, rounds = STEPS[scale]
    sizes = ["--size", size, "--block", block, "--batch", batch, "--rounds", rounds, "--device", device]
    for dtype in DELTA_DTYPES:
        found = run_script("soup_step", *sizes, "--delta-dtype", dtype)
        seconds = found["seconds"]
        shown = [f"{part} {1e3 * seconds[part]:.2f}" for part in ("step", "plain", "reading", "project", "mix")]
        what = f"step over its floor, {dtype} directions, b = {block}, batch {batch}"
        yield at_most(what, found["step_over_floor"], STEP_OVER_FLOOR, note=f"ms: {', '.join(shown)}")


def whole(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """`soup_whole` in each type of directions; the aims are those of bfloat16."""
    size, count, block, steps, batch, images, budgets = WHOLE[scale]
    written = write_ingredients(folder / size, build(size), count, device)
    sizes = ["--size", size, "--counts", count, "--block", block, "--steps", steps, "--batch", batch]
    sizes += ["--images", images, "--folder", folder, "--device", device]
    seconds_aim = SOUP_SECONDS * count / WHOLE["full"][1]
    for dtype, budget in budgets.items():
        (found,) = run_script("soup_whole", *sizes, "--delta-dtype", dtype, "--budget", budget)["results"]
        aimed = dtype == "bfloat16"
        what = f"{len(written)} models, b = {block}, T = {found['blocks']}, J = {steps}, batch {batch}, {dtype}"
        yield at_most(what, found["seconds"], seconds_aim if aimed else None, "s")
        yield at_most(f"{what}: allocated", found["peak_memory_bytes"] / GIB, SOUP_GIB if aimed else None, "GiB")
        reserved = (found["peak_reserved_bytes"] or 0) / GIB
        yield at_most(f"{what}: reserved", reserved, SOUP_GIB if aimed else None, "GiB")


def greedy(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """`greedy`: known accuracies, early end and images on the device, against the released way."""
    size, count, images, batch = GREEDY[scale]
    sizes = ["--size", size, "--count", count, "--images", images, "--batch", batch]
    found = run_script("greedy", *sizes, "--workers", DECODERS, "--folder", folder, "--device", device)
    what = f"greedy, {count} models, {images} images"
    note = f"{found['released_seconds']:.1f} s and {found['seconds']:.2f} s, {found['joined']} joined"
    yield at_least(f"{what}: released way over ours", found["ratio"], GREEDY_RATIO, note=note)
    joined = "yes" if found["same_ingredients"] else "no"
    yield holds(f"{what}: same ones joined", True, joined, "-")
