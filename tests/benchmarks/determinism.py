"""What it costs that the same seed repeats a result: a training step under `reproducible` against the same one without.

    python tests/benchmarks/determinism.py --network ti --batch 16
    python tests/benchmarks/determinism.py --network resnet50 --batch 128 --device cuda

A step is forward, backward and AdamW, in the arithmetic that is the default of the device. Without `reproducible` torch
chooses the fastest algorithms by trying them, and float32 matrix products may be TF32. Each round measures both;
recorded are medians over the rounds, of seconds and of the ratio within a round.
"""

import argparse
import statistics

import torch
import torchvision
from recording import record
from sizes import batch_sizes, positive, same
from soup_step import timed
from torch.nn import functional
from vision_transformers import SIZES, build, images

from pipeline.precision import arithmetic, reproducible


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ti", choices=(*SIZES, "resnet18", "resnet50"))
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--steps", type=positive, default=4, help="in a round, each way")
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = build(options.network) if options.network in SIZES else torchvision.models.get_model(options.network)
    model = network.to(options.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pixels, labels = images(options.batch, options.device)

    def steps() -> None:
        for _ in range(options.steps):
            with arithmetic(options.device, None):
                logits = model(pixels)
            loss = functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def fastest() -> None:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True):
            precision = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
            try:
                steps()
            finally:
                torch.set_float32_matmul_precision(precision)

    repeated = reproducible(steps)
    with batch_sizes(model) as seen:
        repeated(), fastest()  # to warm up
    same("images that the model saw at a time", seen, {options.batch})
    rounds = [(timed(repeated, options.device), timed(fastest, options.device)) for _ in range(options.rounds)]
    medians = [statistics.median(seconds) / options.steps for seconds in zip(*rounds, strict=True)]
    name = f"determinism-{options.network}-{torch.device(options.device).type}"
    record(
        name,
        options.device,
        options=vars(options),
        seconds={"reproducible": medians[0], "fastest": medians[1]},
        ratio=statistics.median(ours / theirs for ours, theirs in rounds),
    )


if __name__ == "__main__":
    main()
