"""Greedy soup with known accuracies, early end and images on the device, against evaluating as the released code does.

    python tests/benchmarks/greedy.py --size ti --count 16 --images 256
    python tests/benchmarks/greedy.py --size b --count 16 --images 2048 --batch 128 --workers 8 --device cuda

The released way: K passes for the order, then K - 1 for candidates, each over all images, which are decoded from JPEG
anew in every pass; here they are decoded once, and that is counted. As many --workers decode in both. A quarter is near
and may join, the others fail (in the model-soups paper 5 of 72 join). One that joins costs a whole pass in any case.
"""

import argparse
import io
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from recording import record
from sizes import batch_sizes, positive, refuse_parts, same
from torch import Tensor, nn
from torch.nn import functional
from vision_transformers import SIZES, build, normalised, write_ingredients

from pipeline.soups import IngredientSet, accuracy_scorer, greedy_soup


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="ti", choices=tuple(SIZES))
    parser.add_argument("--count", type=positive, default=16)
    parser.add_argument("--images", type=positive, default=256)
    parser.add_argument("--batch", type=positive, default=16)
    parser.add_argument("--workers", type=positive, default=1, help="threads that decode ahead of the model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "soup-benchmark")
    options = parser.parse_args()
    refuse_parts(parser, options, "images", "batch")
    model = build(options.size).to(options.device).eval()
    paths = write_ingredients(options.folder / options.size, model, options.count, options.device)
    ingredients = IngredientSet.open(paths)
    files = jpegs(options.images)
    with torch.no_grad():  # labels that the centre predicts: accuracies as of fine-tuned models, not of chance
        labels = torch.cat([model(batch.to(options.device)).argmax(1).cpu() for batch in decoded(files, options)])

    def released_score(weights: Mapping[str, Tensor]) -> float:
        return one_pass(model, weights, files, labels, options)

    start = time.perf_counter()
    accuracies = [released_score(ingredients.state_dict(k)) for k in range(options.count)]
    order = sorted(range(options.count), key=lambda k: -accuracies[k])
    chosen, best = [order[0]], accuracies[order[0]]
    total = {name: tensor.clone() for name, tensor in ingredients.state_dict(order[0]).items()}
    for k in order[1:]:
        share = 1 / (len(chosen) + 1)
        mean = {name: total[name] * (1 - share) + tensor * share for name, tensor in ingredients.state_dict(k).items()}
        accuracy = released_score(mean)
        if accuracy >= best:
            chosen, best, total = [*chosen, k], accuracy, mean
    released = time.perf_counter() - start

    start = time.perf_counter()
    with batch_sizes(model) as seen:
        pixels = torch.cat(list(decoded(files, options)))
        score = accuracy_scorer(model, (pixels, labels), device=options.device, batch_size=options.batch)
        soup = greedy_soup(ingredients, score, accuracies=accuracies, device=options.device)
    seconds = time.perf_counter() - start
    same("images that the model saw at a time", seen, {options.batch})
    same("models that greedy chose from", len(soup.coefficients), options.count)
    result = {
        "released_seconds": released,
        "seconds": seconds,
        "ratio": released / seconds,
        "passes": score.passes,
        "released_passes": 2 * options.count - 1,
        "joined": len(soup.selected),
        "same_ingredients": sorted(chosen) == sorted(soup.selected),
        "accuracies": accuracies,
    }
    shown = {key: value for key, value in vars(options).items() if key != "folder"}
    record(f"greedy-{options.size}-{torch.device(options.device).type}", options.device, options=shown, **result)


@torch.no_grad()
def one_pass(
    model: nn.Module, weights: Mapping[str, Tensor], files: list[bytes], labels: Tensor, options: argparse.Namespace
) -> float:
    """Accuracy as the released code measures it."""
    model.load_state_dict(dict(weights))
    correct = 0
    for batch, wanted in zip(decoded(files, options), labels.split(options.batch), strict=True):
        correct += int((model(batch.to(options.device)).argmax(1).cpu() == wanted).sum())
    return correct / len(files)


def jpegs(count: int) -> list[bytes]:
    """Smooth random images, 224 px, as JPEG files."""
    coarse = torch.rand(count, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    pixels = (functional.interpolate(coarse, 224, mode="bilinear") * 255).byte().permute(0, 2, 3, 1).numpy()
    files = []
    for image in pixels:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "jpeg", quality=90)
        files.append(buffer.getvalue())
    return files


def decoded(files: list[bytes], options: argparse.Namespace) -> Iterator[Tensor]:
    """Batches of normalised pixels."""
    with ThreadPoolExecutor(options.workers) as pool:
        images = pool.map(lambda file: np.asarray(Image.open(io.BytesIO(file))), files)
        while batch := list(islice(images, options.batch)):
            yield normalised(torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2))


if __name__ == "__main__":
    main()
