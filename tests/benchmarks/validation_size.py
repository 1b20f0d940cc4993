"""How many validation images the coefficients need: greedy and HL-Soup+ on the first n images of `fit`.

    python tests/benchmarks/validation_size.py runs/cifar10-small-vit-0

Takes the ingredients, settings and images of a finished run whose artifact store is on this machine. HL-Soup+ learns
for five passes over its n images, as by default, and for as many steps as five passes over all of them take.
"""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
from finished_run import open_run
from recording import record
from sizes import same

from pipeline.evaluation import evaluate_soup
from pipeline.soups import METHODS
from pipeline.studies.statistics import accuracy_difference

SIZES = (250, 1000, 2000)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    config, splits, whole = open_run(parser.parse_args().run)
    images, labels = splits.fit.tensors()
    hl_plus = METHODS["hl-plus"].settings(config.soup.settings.get("hl-plus", {}) | {"inner_iterations": None})
    steps = 5 * math.ceil(len(labels) / hl_plus.batch_size)
    results: list[dict[str, Any]] = []
    for size in (*(size for size in SIZES if size < len(labels)), len(labels)):
        inputs = dataclasses.replace(whole, fit=(images[:size], labels[:size]))
        greedy = None
        variants = {
            "greedy": ("greedy", None),
            "hl-plus, five passes": ("hl-plus", hl_plus),
            f"hl-plus, {steps} steps": ("hl-plus", dataclasses.replace(hl_plus, inner_iterations=steps)),
        }
        for name, (method, settings) in variants.items():
            soup = METHODS[method](inputs, settings)
            if method == "hl-plus":
                wanted = settings.inner_iterations or 5 * math.ceil(size / settings.batch_size)
                same(f"steps of {name} on {size} images", len(soup.history), wanted)
                same("models in a block", [len(block) for block in soup.blocks], [len(inputs.ingredients)])
            test = evaluate_soup(soup, inputs, splits)["test"]
            correct = np.array(test.labels) == np.array(test.predictions)
            greedy = correct if greedy is None else greedy
            gain = accuracy_difference(correct[None], greedy[None])
            results.append(
                {
                    "fit_images": size,
                    "method": name,
                    "test_accuracy": test.accuracy,
                    "over_greedy_pp": {key: 100 * value for key, value in dataclasses.asdict(gain).items()},
                    "coefficients_spread": float(soup.coefficients.std()),
                    "seconds": soup.seconds,
                }
            )
    ingredients = len(whole.ingredients)
    record("validation_size", whole.device, run=config.name, seed=config.seed, ingredients=ingredients, results=results)


if __name__ == "__main__":
    main()
