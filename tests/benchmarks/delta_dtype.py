"""What keeping directions in bfloat16 or int8 does to MEHL-Soup+: accuracy, coefficients, memory, against float32.

    python tests/benchmarks/delta_dtype.py runs/cifar10-small-vit

Takes the ingredients, settings and images of a finished run whose artifact store is on this machine, and builds its
mehl-plus once with each type.
"""

import argparse
from pathlib import Path

import torch
from recording import record

from pipeline.cluster import start_ray
from pipeline.command_line import known_names
from pipeline.config import load_config
from pipeline.data import load_splits, read_table
from pipeline.evaluation import evaluate_soup, recalibration
from pipeline.models import build_classifier
from pipeline.records import IngredientRecord
from pipeline.registry.client import local_path
from pipeline.soups import METHODS, IngredientSet, SoupInputs


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run: Path = parser.parse_args().run
    config = load_config(run / "config.yaml", [], known_names())
    start_ray()
    splits = load_splits(config.data, config.seed)
    rows = read_table(run / "ingredients.parquet", IngredientRecord)
    paths = [path for row in rows if row.path is not None and (path := local_path(row.path)) is not None]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = SoupInputs(
        model=build_classifier(config.model, len(splits.class_names)),
        ingredients=IngredientSet.open(paths),
        fit=splits.fit.tensors(),
        device=device,
        seed=config.seed,
        recalibrate=recalibration(splits, device),
    )
    method = METHODS["mehl-plus"]
    results, reference = [], None
    for dtype in ("float32", "bfloat16", "int8"):
        settings = config.soup.settings.get("mehl-plus", {}) | {"delta_dtype": dtype}
        soup = method(inputs, method.settings(settings))
        reference = soup if reference is None else reference
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
    record("delta_dtype", device, run=config.name, ingredients=len(paths), seed=config.seed, results=results)


if __name__ == "__main__":
    main()
