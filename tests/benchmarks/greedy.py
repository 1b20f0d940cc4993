"""Greedy soup with known accuracies, early end and images on the device, against evaluating as the released code does.

    python tests/benchmarks/greedy.py --size ti --count 8 --images 128

The released way: K passes for the order, then K - 1 for candidates, each over all images, each candidate averaged anew
from the files. Random ingredients around one model mostly fail early, as those of another basin would.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from recording import record
from vision_transformers import build, images, write_ingredients

from pipeline.soups import IngredientSet, accuracy_scorer, greedy_soup
from pipeline.soups.best_individual import individual_accuracies


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="ti", choices=("ti", "s", "b"))
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "soup-benchmark")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    model = build(options.size)
    ingredients = IngredientSet.open(write_ingredients(options.folder / options.size, model, options.count))
    pixels, _ = images(options.images)
    with torch.no_grad():  # labels that the centre predicts: accuracies as of fine-tuned models, not of chance
        labels = torch.cat([model.eval()(part).argmax(1) for part in pixels.split(options.batch)])
    score = accuracy_scorer(model, (pixels, labels), device=options.device, batch_size=options.batch)

    start = time.perf_counter()
    accuracies = individual_accuracies(ingredients, score)
    ordering = time.perf_counter() - start
    order = sorted(range(options.count), key=lambda k: -accuracies[k])
    start = time.perf_counter()
    chosen, best = [order[0]], accuracies[order[0]]
    for k in order[1:]:
        accuracy = score(ingredients.subset([*chosen, k]).mean())
        if accuracy is not None and accuracy >= best:
            chosen, best = [*chosen, k], accuracy
    released = ordering + time.perf_counter() - start

    before = score.passes
    soup = greedy_soup(ingredients, score, accuracies=accuracies, device=options.device)
    result = {
        "released_seconds": released,
        "seconds": soup.seconds,
        "ratio": released / soup.seconds,
        "passes": score.passes - before,
        "released_passes": 2 * options.count - 1,
        "same_ingredients": sorted(chosen) == sorted(soup.selected),
        "accuracies": accuracies,
    }
    shown = {key: value for key, value in vars(options).items() if key != "folder"}
    record(f"greedy-{options.size}-{torch.device(options.device).type}", options.device, options=shown, **result)


if __name__ == "__main__":
    main()
