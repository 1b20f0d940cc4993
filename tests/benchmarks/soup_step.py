"""One optimisation step of MEHL-Soup+ against a plain forward and backward of the same model and batch.

    python tests/benchmarks/soup_step.py --size b --block 18 --batch 8
    python tests/benchmarks/soup_step.py --size b --block 18 --batch 128 --device cuda

The floor is the plain step plus reading the b directions twice, as two float32 matrix-vector products over one flat
matrix of as many bytes. Each round measures everything once; recorded are medians over the rounds, of seconds and of
the ratios within a round. Needs 2b + 4 models of memory.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from recording import record
from sizes import batch_sizes, positive, same
from vision_transformers import SIZES, build, images

from pipeline.soups.descent import Descent, soup_gradient
from pipeline.soups.directions import Directions, empty_parts
from pipeline.soups.flat import Layout, flattened
from pipeline.soups.packed import DELTA_DTYPES


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="s", choices=tuple(SIZES))
    parser.add_argument("--block", type=positive, default=18)
    parser.add_argument("--batch", type=positive, default=8)
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--delta-dtype", default="float32", choices=tuple(DELTA_DTYPES))
    options = parser.parse_args()
    model = build(options.size).to(options.device).eval()
    weights = dict(model.named_parameters())
    batch, descent = images(options.batch, options.device), Descent(1)

    layout = Layout.of(weights)
    soup = flattened(weights, layout)
    directions, fixed = random_directions(layout, soup, options), soup.clone()
    alpha = torch.zeros(options.block, len(weights), device=options.device)
    optimizer = descent.new_optimizer()

    def step() -> None:
        _, gradients, _ = soup_gradient(model, weights, batch, descent)
        optimizer.step(alpha, directions.project(gradients), 1e-6)
        directions.mix(alpha, fixed, soup)

    _, gradients, _ = soup_gradient(model, weights, batch, descent)
    works = {
        "plain": lambda: soup_gradient(model, weights, batch, descent),
        "reading": reading(sum(tensor.numel() for tensor in weights.values()), options),
        "step": step,
        "project": lambda: directions.project(gradients),
        "mix": lambda: directions.mix(alpha, fixed, soup),
    }
    with batch_sizes(model) as seen:
        for work in works.values():  # to warm up
            work()
    same("images that the model saw at a time", seen, {options.batch})  # memory that runs out has batches cut
    same("models and tensors in a block", tuple(alpha.shape), (options.block, len(model.state_dict())))
    rounds = [{part: timed(work, options.device) for part, work in works.items()} for _ in range(options.rounds)]
    seconds = {part: statistics.median(times[part] for times in rounds) for part in works}
    ratios = {
        "step_over_plain": statistics.median(times["step"] / times["plain"] for times in rounds),
        "step_over_floor": statistics.median(times["step"] / (times["plain"] + times["reading"]) for times in rounds),
    }
    name = f"soup_step-{options.size}-{options.delta_dtype}-{torch.device(options.device).type}"
    record(name, options.device, options=vars(options), tensors=len(weights), seconds=seconds, **ratios)


def reading(numel: int, options: argparse.Namespace) -> Callable[[], object]:
    """Two float32 matrix-vector products over one flat matrix of as many bytes as the directions."""
    columns = numel * DELTA_DTYPES[options.delta_dtype].itemsize // 4
    flat = torch.randn(options.block, columns, device=options.device)
    row, column = flat[0].clone(), flat[:, 0].clone()
    return lambda: (flat.mv(row), flat.t().mv(column))


def random_directions(layout: Layout, like: torch.Tensor, options: argparse.Namespace) -> Directions:
    """Directions of a block, one layer per tensor."""
    dtype, tensors = DELTA_DTYPES[options.delta_dtype], len(layout.names)
    (part,) = empty_parts(options.block, layout, [dtype] * tensors, like)
    for t, size in enumerate(layout.sizes):
        for k in range(options.block):
            part.packed.store(k, t, 1e-3 * torch.randn(size, device=like.device), None)
    same("type and shape of the directions", (part.packed.rows.dtype, len(part.packed.rows)), (dtype, options.block))
    return Directions([part], range(tensors), tensors, like)


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
