"""``python -m pipeline verify``: is what the registry holds of a run what it says it is?"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.common import add_run_arguments, guarded_with_store, known_names
from pipeline.config import load_config
from pipeline.errors import PipelineError, RegistryError
from pipeline.files import scratch

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.registry import IngredientVersion, SoupVersion, Sweep

logger = logging.getLogger(__name__)

# Other hardware rounds differently and may tip the balance for an image or two.
_TOLERANCE = 0.001

# Of a soup that an older version of this program recorded.
_UNKNOWN = "as recorded; what is served with it (code, class names) is not known, as it was not recorded"

HELP: dict[str, Any] = {
    "description": "Read everything that the registry holds of the latest sweep of a run again: checksums of all "
    "ingredients and soups and of what is served with these, that the recorded coefficients applied to the ingredients "
    "give each soup (up to a last bit), and that its accuracies on fit, select and test repeat. Exit status 2 and a "
    "list of what is wrong, if anything is.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add_run_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return guarded_with_store(arguments, lambda uri: verify(arguments.name, uri))


def verify(name: str, tracking_uri: str) -> None:
    """Check the latest sweep of the run ``name``; raises RegistryError that lists what is wrong."""
    from pipeline.registry import (  # slow to import
        current_soups,
        fetch_intact,
        file_changes,
        find_sweep,
        list_ingredients,
        list_soups,
        soup_changes,
        sweep_changes,
        trial_changes,
    )

    sweep = find_sweep(tracking_uri, name)
    with scratch() as folder:
        versions = list_ingredients(sweep)
        files, damaged = fetch_intact(versions, folder)
        changes = [*sweep_changes(sweep), *(change.what for change in trial_changes(sweep)), *soup_changes(sweep)]
        problems = [*changes, *map(str, damaged.values())]
        paths = {version.version: files[version.trial_index] for version in versions if version.trial_index in files}
        logger.info("ingredients: %d of %d have the recorded SHA-256", len(paths), len(versions))
        soups, runs = list_soups(sweep), current_soups(sweep)
        for soup, wrong in _check_soups(sweep, soups, versions, paths, folder):
            served = file_changes(runs[soup.method])
            changes += served
            problems += [*served, *wrong]
            verdict = "wrong" if wrong or served else "as recorded" if soup.files is not None else _UNKNOWN
            logger.info("soup %s (version %d): %s", soup.method, soup.version, verdict)
    if problems:
        head = f"run '{name}': {len(problems)} things are not as recorded:"
        remedy = "what was changed by hand in MLflow is made again by the command `run` that made the run"
        raise RegistryError("\n  ".join([head, *problems, *([remedy] if changes else [])]))
    logger.info("run '%s': %d ingredients and %d soups are as recorded", name, len(versions), len(soups))


def _differ(made: Tensor, recorded: Tensor) -> bool:
    """Whether they differ by more than rounding: versions and devices may add the ingredients up in other ways."""
    import torch

    if torch.equal(made, recorded):
        return False
    if not made.is_floating_point() or (made.shape, made.dtype) != (recorded.shape, recorded.dtype):
        return True
    # A last bit of the stored type, and what is left of a sum in float64 that all but cancels.
    exact, last_bit = made.double(), torch.finfo(made.dtype).eps
    left = 1e-14 * exact.nan_to_num(posinf=0, neginf=0).abs().max().item()
    return not torch.isclose(exact, recorded.double(), rtol=last_bit, atol=left).all()


def _check_soups(
    sweep: Sweep,
    soups: Sequence[SoupVersion],
    versions: Sequence[IngredientVersion],
    paths: dict[int, Path],
    folder: Path,
) -> Iterator[tuple[SoupVersion, list[str]]]:
    """Each soup with what is wrong with it."""
    import numpy as np
    import torch

    from pipeline.cluster import start_ray
    from pipeline.data import load_splits
    from pipeline.evaluation import split_figures
    from pipeline.models import build_classifier
    from pipeline.precision import reproducible
    from pipeline.registry import fetch_settings, fetch_soup
    from pipeline.soups import METHODS, IngredientSet, soup_from_coefficients
    from pipeline.weights import load_weights, read_weights

    config = load_config(fetch_settings(sweep, folder), [], known_names)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    splits = load_splits(config.data, config.seed, start_ray(config.plugins).image_bytes)
    model = build_classifier(config.model, len(splits.class_names))
    # Their statistics are measured anew on training images for every soup.
    renewed = {
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        for name, _ in module.named_buffers()
    }
    version_of = {version.trial_index: version.version for version in versions}
    theta0 = version_of.get(None)
    for soup in soups:
        wrong, what = [], f"soup '{soup.method}' (version {soup.version})"
        method = METHODS.get(soup.method)
        if method is None:
            yield soup, [f"{what}: no method of this name is here; the run's `plugins` do not bring it any more"]
            continue
        try:
            stored = read_weights(fetch_soup(soup, folder))
        except PipelineError as error:
            yield soup, [str(error)]
            continue
        # By trial, not by number: a version that was deleted by hand and made again has another.
        used = [
            version_of.get(ingredient.trial_index, ingredient.model_version) for ingredient in soup.lineage.ingredients
        ]
        origins = [theta0] if method.needs_theta0 and theta0 is not None else []
        if missing := [str(version) for version in (*used, *origins) if version not in paths]:
            wrong.append(f"{what}: cannot be made again without ingredient versions {', '.join(missing)}")
        else:
            ingredients = IngredientSet.open([paths[version] for version in used])
            coefficients = torch.tensor([one.coefficients for one in soup.lineage.ingredients], dtype=torch.float64)
            origin = read_weights(paths[origins[0]]) if origins else None
            again = soup_from_coefficients(ingredients, coefficients, soup.lineage.layers, origin)
            differ = [key for key in again if key not in renewed and _differ(again[key], stored[key])]
            if differ:
                wrong.append(f"{what}: the coefficients give other weights ({len(differ)} tensors, {differ[0]} first)")
        load_weights(model, stored, source=what)
        as_measured = dataclasses.replace(splits, precision=soup.lineage.precision)
        for key, measured in reproducible(split_figures)(model, as_measured, device).items():
            split, _, kind = key.partition("_")
            recorded = soup.figures.get(key)
            labels = splits.measured()["fit" if split == "val" else split].labels
            # In a score by classes an image may weigh as much as its class has few.
            weights = [len(labels)] if kind == "accuracy" else np.unique(labels, return_counts=True)[1]
            tolerance = max(_TOLERANCE, 1 / max(1, min(weights)))
            if measured is not None and abs(measured - (recorded or 0.0)) > tolerance:
                wrong.append(f"{what}: {key} is {measured:.4f}, recorded was {recorded}")
        yield soup, wrong
