"""Time and peak memory of a whole MEHL-Soup+ against the number of ingredients: flat memory, linear time.

    python tests/benchmarks/soup_whole.py --size ti --counts 4 8 16 --block 4
    python tests/benchmarks/soup_whole.py --size b --counts 72 --block 18 --batch 128 --steps 1015 --images 25984 \
        --delta-dtype bfloat16 --budget 8 --device cuda

Each count runs in a process of its own, so that memory freed by one does not hide what the next takes. Ingredients are
written to --folder once and kept, in float32. Ratios are against the first count.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from recording import record
from sizes import batch_sizes, positive, refuse_parts, same
from vision_transformers import SIZES, build, normalised, pixels, write_ingredients

from pipeline.soups import IngredientSet, MehlSettings, mehl_soup
from pipeline.soups.packed import DELTA_DTYPES


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="ti", choices=tuple(SIZES))
    parser.add_argument("--counts", type=positive, nargs="+", default=[4, 8, 16])
    parser.add_argument("--block", type=positive, default=4)
    parser.add_argument("--batch", type=positive, default=8)
    parser.add_argument("--images", type=positive, help="default: four batches")
    parser.add_argument("--steps", type=positive, default=4, help="per block")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--delta-dtype", default="float32", choices=tuple(DELTA_DTYPES))
    parser.add_argument("--budget", type=float, help="memory_budget_gib")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "soup-benchmark")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.images = options.images or 4 * options.batch
    refuse_parts(parser, options, "images", "batch")
    refuse_parts(parser, options, "counts", "block")
    model = build(options.size)
    paths = write_ingredients(options.folder / options.size, model, max(options.counts), options.device)
    if options.only:
        print(json.dumps(measure(model, paths[: options.only], options)))
        return
    results = []
    for count in options.counts:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", str(count)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        results.append(json.loads(done.stdout))
    first = results[0]
    for result in results:
        result["seconds_per_block_over_first"] = result["seconds_per_block"] / first["seconds_per_block"]
        result["memory_over_first"] = result["peak_memory_bytes"] / first["peak_memory_bytes"]
    name = f"soup_whole-{options.size}-{torch.device(options.device).type}"
    shown = {key: value for key, value in vars(options).items() if key not in ("folder", "only")}
    record(name, options.device, options=shown, results=results)


def measure(model: torch.nn.Module, paths: list[Path], options: argparse.Namespace) -> dict[str, float | None]:
    """One soup of these files."""
    if options.device == "cpu":
        torch.set_num_threads(1)
    settings = MehlSettings(
        block_size=options.block,
        inner_iterations=options.steps,
        batch_size=options.batch,
        delta_dtype=options.delta_dtype,
        memory_budget_gib=options.budget,
    )
    ingredients, fit = IngredientSet.open(paths), pixels(options.images)
    with batch_sizes(model) as seen:
        soup = mehl_soup(model, ingredients, fit, settings, device=options.device, preprocess=normalised)
    # A budget is planned by trial steps of an eighth and a quarter of a batch.
    trials = {math.ceil(options.batch / cut) for cut in (8, 4)} if options.budget else set()
    same("images that the model saw at a time", seen | trials, {options.batch} | trials)
    same("models in a block", {len(block) for block in soup.blocks}, {options.block})
    same("models in all blocks", sum(map(len, soup.blocks)), len(paths))
    same("steps", len(soup.history), options.steps * len(soup.blocks))
    same("tensors that are mixed", len(soup.layers), len(model.state_dict()))
    return {
        "count": len(paths),
        "blocks": len(soup.blocks),
        "steps": len(soup.history),
        "tensors": len(soup.layers),
        "loss": soup.history[-1],
        "seconds": soup.seconds,
        "seconds_per_block": soup.seconds / len(soup.blocks),
        "peak_memory_bytes": soup.peak_memory_bytes,
        "peak_reserved_bytes": soup.peak_reserved_bytes,
        "peak_memory_models": soup.peak_memory_bytes / sum(tensor.nbytes for tensor in model.parameters()),
    }


if __name__ == "__main__":
    main()
