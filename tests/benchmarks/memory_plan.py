"""Where no GPU is: what MEHL-Soup+ would take of one within a budget, planned and counted on the stand-in device.

    python tests/benchmarks/memory_plan.py --size b --batch 128 --budgets 4 6 8

For each budget a soup of --count models is begun (one block of two steps) with `block_size: auto`, and for the largest
one with --block models and bfloat16 directions. Planned is what `memory_budget_gib` reckons with: tensors, CUDA's
context, a tenth of slack. Counted are the bytes of the tensors that are alive at a time on the stand-in
(`tests/standin.py`), to which a GPU adds its context, rounding and what the allocator keeps.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

import torch.distributed.tensor  # noqa: F401  (before the stand-in takes the place of a class that it names in a type)
from gpu.processes import told
from recording import record
from sizes import positive, same
from vision_transformers import SIZES, build, normalised, pixels, write_ingredients

sys.path.append(str(Path(__file__).resolve().parents[1]))
from standin import standin

from pipeline.errors import SoupError
from pipeline.soups import IngredientSet, MehlSettings, mehl_soup
from pipeline.soups.budget import _CONTEXT_BYTES

GIB = 1 << 30


def main() -> None:
    """Count and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="b", choices=tuple(SIZES))
    parser.add_argument("--count", type=positive, default=20)
    parser.add_argument("--block", type=positive, default=18)
    parser.add_argument("--batch", type=positive, default=128)
    parser.add_argument("--budgets", type=float, nargs="+", default=[4, 6, 8])
    options = parser.parse_args()
    model = build(options.size)
    with tempfile.TemporaryDirectory() as folder:
        ingredients = IngredientSet.open(write_ingredients(Path(folder), model, options.count))
        steps = {"batch_size": options.batch, "inner_iterations": 2, "outer_iterations": 1}
        tried = [(budget, {"block_size": "auto"}) for budget in options.budgets]
        tried.append((max(options.budgets), {"block_size": options.block, "delta_dtype": "bfloat16"}))
        results = []
        for budget, chosen in tried:
            given = MehlSettings(memory_budget_gib=budget, **steps, **chosen)
            results.append({"budget_gib": budget, **chosen, **counted(model, ingredients, given, options.batch)})
            print(results[-1], flush=True)
    record(f"memory_plan-{options.size}", "cpu", options=vars(options), results=results)


def counted(model, ingredients, settings: MehlSettings, batch: int) -> dict[str, object]:
    """What is planned, and the peak of a block."""
    fit = pixels(4 * batch)
    with standin() as log, told("pipeline.soups") as messages:
        try:
            soup = mehl_soup(model, ingredients, fit, settings, device="cuda", preprocess=normalised)
        except SoupError as error:
            return {"refused": str(error)}
        peak = log.peak_bytes
    plan = next(text for text in messages if text.startswith("memory budget"))
    same("steps", len(soup.history), settings.inner_iterations)
    directions, at_a_time, planned = re.search(
        r"in (.+?)(?:, (\d+) images at a time)?, about ([\d.]+) GiB", plan
    ).groups()
    return {
        "models": len(soup.blocks[0]),
        "directions": directions,
        "images_at_a_time": int(at_a_time or batch),
        "planned_gib": float(planned),
        "counted_gib": peak / GIB,
        "counted_with_context_gib": (peak + _CONTEXT_BYTES) / GIB,
    }


if __name__ == "__main__":
    main()
