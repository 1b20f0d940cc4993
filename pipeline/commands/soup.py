"""``python -m pipeline soup``: a soup of checkpoints that are there already, with no cluster and no registry."""

from __future__ import annotations

import argparse
import functools
import logging
from pathlib import Path
from typing import Any

from pipeline.commands.common import guarded, known_names
from pipeline.config import load_config, nearest
from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

HELP: dict[str, Any] = {
    "description": "Make one soup of the safetensors files in a folder, without a cluster or a registry. The settings "
    "say how the model is built (`model`), which images it learns from (`data`) and how (`soup.settings`).",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--ingredients", required=True, type=Path, metavar="DIR", help="folder of *.safetensors files")
    parser.add_argument("--config", required=True, metavar="FILE", help="settings in YAML, as for `run`")
    parser.add_argument("--method", default="mehl-plus", help="as in `soup.methods` (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the soup, as safetensors")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the file's")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return guarded(functools.partial(make_soup, arguments))


def make_soup(arguments: argparse.Namespace) -> None:
    """Build ``arguments.method`` over the folder, write it, tell its accuracies and cost. Raises PipelineError."""
    import torch  # these are slow to import, and `--help` does without

    from pipeline.cluster import start_ray
    from pipeline.data import load_splits
    from pipeline.evaluation import evaluate_soup, recalibration
    from pipeline.models import build_classifier
    from pipeline.soups import METHODS, IngredientSet, SoupInputs
    from pipeline.weights import save_weights

    config = load_config(arguments.config, arguments.overrides, known_names)
    method = METHODS.get(arguments.method)
    if method is None:
        raise ConfigError(f"--method: unknown name '{arguments.method}'; {nearest(arguments.method, METHODS)}")
    paths = sorted(arguments.ingredients.glob("*.safetensors"))
    if not paths:
        raise ConfigError(f"--ingredients: {arguments.ingredients} holds no *.safetensors files")
    cluster = start_ray(config.plugins)
    splits = load_splits(config.data, config.seed, cluster.image_bytes)
    ingredients = IngredientSet.open(paths, on_mismatch="skip")
    for _, reason in ingredients.rejected:
        logger.info("left out: %s", reason)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs = SoupInputs(
        model=build_classifier(config.model, len(splits.class_names)),
        ingredients=ingredients,
        fit=splits.fit.tensors(),
        device=device,
        seed=config.seed,
        recalibrate=recalibration(splits, device),
    )
    logger.info("%s over %d ingredients on %s", method.name, len(ingredients), device)
    soup = method(inputs, method.settings(config.soup.settings.get(method.name, {})))
    if soup.state_dict is None:
        raise ConfigError(f"--method: '{method.name}' is an ensemble, which is no single model to write")
    evaluated = evaluate_soup(soup, inputs, splits)
    metadata = {**ingredients.metadata(0), "method": method.name, "ingredients": str(len(ingredients))}
    save_weights(soup.state_dict, arguments.out, metadata)
    measured = [
        f"{name} {100 * split.accuracy:.2f}%" for name, split in evaluated.items() if split.accuracy is not None
    ]
    logger.info(
        "accuracy: %s; built in %.1f s, peak memory %.2f GiB",
        ", ".join(measured),
        soup.seconds,
        soup.peak_memory_bytes / 2**30,
    )
    logger.info("wrote %s", arguments.out)
