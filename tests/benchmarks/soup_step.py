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
from vision_transformers import build, images

from pipeline.soups.descent import Descent, soup_gradient
from pipeline.soups.directions import Directions
from pipeline.soups.packed import DELTA_DTYPES, Packed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="s", choices=("ti", "s", "b"))
    parser.add_argument("--block", type=int, default=18)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--delta-dtype", default="float32", choices=tuple(DELTA_DTYPES))
    options = parser.parse_args()
    model = build(options.size).to(options.device).eval()
    weights = dict(model.named_parameters())
    batch, descent = images(options.batch, options.device), Descent(1)

    directions = random_directions(weights, options)
    fixed = {name: tensor.detach().clone() for name, tensor in weights.items()}
    alpha = torch.zeros(options.block, len(weights), device=options.device)
    optimizer = descent.new_optimizer()

    def step() -> None:
        _, gradients = soup_gradient(model, weights, batch, descent)
        optimizer.step(alpha, directions.project(gradients), 1e-6)
        directions.mix(alpha, fixed, weights)

    _, gradients = soup_gradient(model, weights, batch, descent)
    works = {
        "plain": lambda: soup_gradient(model, weights, batch, descent),
        "reading": reading(sum(tensor.numel() for tensor in weights.values()), options),
        "step": step,
        "project": lambda: directions.project(gradients),
        "mix": lambda: directions.mix(alpha, fixed, weights),
    }
    for work in works.values():  # to warm up
        work()
    rounds = [{part: timed(work, options.device) for part, work in works.items()} for _ in range(options.rounds)]
    seconds = {part: statistics.median(times[part] for times in rounds) for part in works}
    ratios = {
        "step_over_plain": statistics.median(times["step"] / times["plain"] for times in rounds),
        "step_over_floor": statistics.median(times["step"] / (times["plain"] + times["reading"]) for times in rounds),
    }
    name = f"soup_step-{options.size}-{options.delta_dtype}-{torch.device(options.device).type}"
    record(name, options.device, options=vars(options), seconds=seconds, **ratios)


def reading(numel: int, options: argparse.Namespace) -> Callable[[], object]:
    """Two float32 matrix-vector products over one flat matrix of as many bytes as the directions."""
    columns = numel * DELTA_DTYPES[options.delta_dtype].itemsize // 4
    flat = torch.randn(options.block, columns, device=options.device)
    row, column = flat[0].clone(), flat[:, 0].clone()
    return lambda: (flat.mv(row), flat.t().mv(column))


def random_directions(weights: dict[str, torch.Tensor], options: argparse.Namespace) -> Directions:
    """Directions of a block, one layer per tensor."""
    matrices = {}
    for name, tensor in weights.items():
        matrices[name] = Packed.empty(options.block, tensor, DELTA_DTYPES[options.delta_dtype])
        for k in range(options.block):
            matrices[name].set_row(k, 1e-3 * torch.randn_like(tensor).view(-1), None)
    layer_of = {name: position for position, name in enumerate(weights)}
    return Directions(matrices, layer_of, next(iter(weights.values())), len(weights))


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
