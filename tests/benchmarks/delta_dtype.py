"""What keeping directions in bfloat16 or int8 does to MEHL-Soup+: accuracy, coefficients, memory, against float32.

    python tests/benchmarks/delta_dtype.py runs/cifar10-small-vit

Takes the ingredients, settings and images of a finished run whose artifact store is on this machine, and builds its
mehl-plus once with each type.
"""

import argparse
from pathlib import Path

from finished_run import open_run
from recording import record
from sizes import same

from pipeline.evaluation import evaluate_soup
from pipeline.soups import METHODS


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    config, splits, inputs = open_run(parser.parse_args().run)
    method = METHODS["mehl-plus"]
    results, reference = [], None
    for dtype in ("float32", "bfloat16", "int8"):
        settings = config.soup.settings.get("mehl-plus", {}) | {"delta_dtype": dtype}
        soup = method(inputs, method.settings(settings))
        reference = soup if reference is None else reference
        same(f"blocks with {dtype} (block_size: auto depends on it)", soup.blocks, reference.blocks)
        same(f"steps with {dtype}", len(soup.history), len(reference.history))
        evaluated = evaluate_soup(soup, inputs, splits)
        difference = (soup.coefficients - reference.coefficients).abs()
        results.append(
            {
                "delta_dtype": dtype,
                "accuracy": {name: split.accuracy for name, split in evaluated.items()},
                "predictions": evaluated["test"].predictions,
                "coefficients_spread": float(soup.coefficients.std()),
                "largest_difference_of_coefficients": float(difference.max()),
                "mean_difference_of_coefficients": float(difference.mean()),
                "seconds": soup.seconds,
                "peak_memory_bytes": soup.peak_memory_bytes,
            }
        )
    first = results[0]["predictions"]
    for result in results:
        pairs = zip(result.pop("predictions"), first, strict=True)
        result["same_test_predictions"] = sum(a == b for a, b in pairs) / len(first)
    record(
        "delta_dtype",
        inputs.device,
        run=config.name,
        ingredients=len(inputs.ingredients),
        models_in_a_block=len(reference.blocks[0]),
        steps=len(reference.history),
        seed=config.seed,
        results=results,
    )


if __name__ == "__main__":
    main()
