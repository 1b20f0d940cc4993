"""``python -m pipeline soup``: a soup of checkpoints that are there already, with no cluster and no registry."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.commands.common import guarded, known_names, path_argument
from pipeline.commands.import_ import add_weights_argument, find_checkpoints
from pipeline.config import Config, chosen, load_config, nearest
from pipeline.errors import ConfigError, ModelError, quoted
from pipeline.files import absence, is_special, scratch
from pipeline.report.formats import memory_with_kind, tells_memory

if TYPE_CHECKING:
    from pipeline.models import Backbone
    from pipeline.records import ModelDescription
    from pipeline.soups import IngredientSet
    from pipeline.weights import WeightsChoice

logger = logging.getLogger(__name__)

HELP: dict[str, Any] = {
    "description": "Make one soup of the checkpoints in a folder (of the kinds that `import` takes), without a cluster "
    "or a registry. The settings say how the model is built (`model`), which images it learns from (`data`), how "
    "(`soup.settings`) and which checkpoints it does without (`soup.leave_out`).",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--ingredients", required=True, type=path_argument, metavar="DIR", help="folder of checkpoints")
    parser.add_argument("--config", required=True, metavar="FILE", help="settings in YAML, as for `run`")
    parser.add_argument("--method", default="mehl-plus", help="as in `soup.methods` (default: %(default)s)")
    parser.add_argument("--out", required=True, type=path_argument, metavar="FILE", help="the soup, as safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace the file of --out if it is there already")
    add_weights_argument(parser)
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
    from pipeline.metrics import METRICS, deciding
    from pipeline.models import build_classifier
    from pipeline.precision import reproducible, resolved
    from pipeline.soups import METHODS, SoupInputs
    from pipeline.weights import save_weights

    # What can be refused is refused before Ray is started and images are read.
    config = load_config(arguments.config, arguments.overrides, known_names)
    method = METHODS.get(arguments.method)
    if method is None:
        raise ConfigError(f"--method: unknown name {quoted(arguments.method)}; {nearest(arguments.method, METHODS)}")
    if not method.single_model:
        raise ConfigError(f"--method: '{method.name}' is an ensemble, which is no single model to write")
    if method.needs_theta0:
        raise ConfigError(f"--method: '{method.name}' needs theta0; `import --theta0` and `run` build it")
    if absence(arguments.ingredients) is not None or not arguments.ingredients.is_dir():
        raise ConfigError(f"--ingredients: {arguments.ingredients} is no folder; give a folder of checkpoints")
    try:
        _check_out(arguments.out, arguments.ingredients, overwrite=arguments.overwrite)
    except OSError as error:
        raise ConfigError(f"--out: {arguments.out} cannot be written ({error.strerror}); give another file") from error
    paths = find_checkpoints([arguments.ingredients])
    without = chosen(config.soup.leave_out, paths, "soup.leave_out")
    for position in without:
        logger.info("left out: %s: soup.leave_out names it", paths[position])
    kept = [path for position, path in enumerate(paths) if position not in without]
    with scratch() as folder:
        ingredients = _open(kept, config, arguments.weights, folder)
        cluster = start_ray(config.plugins)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        precision = resolved(config.precision, device)
        splits = load_splits(config.data, config.seed, cluster.image_bytes)
        splits = dataclasses.replace(splits, precision=precision)
        _check_classes(ingredients, splits.class_names)
        model = build_classifier(config.model, len(splits.class_names))
        inputs = SoupInputs(
            model=model,
            ingredients=ingredients,
            fit=splits.fit.tensors(),
            device=device,
            seed=config.seed,
            recalibrate=recalibration(model, splits, device),
            settings_of={part: METHODS[part].settings(config.soup.settings.get(part, {})) for part in method.parts},
            precision=precision,
            metric=deciding(splits.metric),
        )
        logger.info("%s over %d ingredients on %s in %s", method.name, len(ingredients), device, precision)
        soup = reproducible(method)(inputs, method.settings(config.soup.settings.get(method.name, {})))
        if soup.state_dict is None:
            raise ConfigError(f"--method: '{method.name}' makes no single model to write")
        evaluated = reproducible(evaluate_soup)(soup, inputs, splits)
        metadata = {**ingredients.metadata(0), "method": method.name, "ingredients": str(len(ingredients))}
        save_weights(soup.state_dict, arguments.out, metadata)
    by_split = {name: split.accuracy if split.score is None else split.score for name, split in evaluated.items()}
    logger.info(
        "%s: %s; built in %.1f s%s",
        METRICS[splits.metric].label,
        ", ".join(f"{name} {100 * value:.2f}%" for name, value in by_split.items() if value is not None),
        soup.seconds,
        f", peak memory {memory_with_kind(soup)}" if tells_memory([soup]) else "",
    )
    logger.info("wrote %s", arguments.out)


def _check_classes(ingredients: IngredientSet, class_names: Sequence[str]) -> None:
    """Raises ConfigError for models of other classes than those of the images, or of these in another order."""
    from pipeline.weights import class_names_of

    try:
        names = class_names_of(ingredients.metadata(0))
    except ValueError as error:
        logger.info("class_names in the headers %s and was not compared", error)
        names = None
    count = len(ingredients.tensor(0, "head.bias"))
    if count != len(class_names) or (names is not None and names != list(class_names)):
        order = "" if count != len(class_names) else ", or these in another order"
        raise ConfigError(
            f"--ingredients: these models were made for other classes than the {len(class_names)} of `data`{order}; "
            "give the data that they were fine-tuned on"
        )


def _check_out(out: Path, ingredients: Path, *, overwrite: bool) -> None:
    """Raises ConfigError where the soup cannot be written, or would be taken for an ingredient the next time."""
    if out.is_dir():
        raise ConfigError(f"--out: {out} is a folder; give a file")
    if out.absolute().parent.resolve() == ingredients.absolute().resolve():
        raise ConfigError(
            f"--out: {out} is in the folder of the ingredients and would be one of them the next time; "
            "give another folder"
        )
    if is_special(out):
        raise ConfigError(f"--out: {out} is a pipe, a socket or a device; give a file")
    if out.exists() and not overwrite:
        raise ConfigError(f"--out: {out} is there already; give another file, or --overwrite to replace it")
    folder = next(path for path in out.absolute().parents if path.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--out: nothing can be written to {folder}; give a file elsewhere")


def _open(paths: Iterable[Path], config: Config, weights: WeightsChoice, folder: Path) -> IngredientSet:
    """The checkpoints that fit the model and each other; the log names the others. Raises PipelineError.

    Those that are no safetensors with our names are written so into ``folder``.
    """
    from pipeline.models import describe_model, load_backbone
    from pipeline.soups import IngredientSet

    backbone, files, notes = load_backbone(config.model, pretrained=False), {}, set()
    description = describe_model(config.model, config.data, (), backbone)
    for number, path in enumerate(paths):
        try:
            file, note = _as_ingredient(path, backbone, description, weights, folder / f"{number}.safetensors")
        except ModelError as error:
            logger.info("left out: %s", error)
        else:
            files[file] = str(path)
            notes |= {note} if note else set()
    for note in sorted(notes):
        logger.info("%s; see --weights", note)
    ingredients = IngredientSet.open(files, titles=files.values(), on_mismatch="skip")
    for _, reason in ingredients.rejected:
        logger.info("left out: %s", reason)
    return ingredients


def _as_ingredient(
    path: Path, backbone: Backbone, description: ModelDescription, weights: WeightsChoice, target: Path
) -> tuple[Path, str | None]:
    """The checkpoint as safetensors with our names: ``path`` itself or, written now, ``target``; and what was chosen.

    Raises ModelError for a file that does not fit the model.
    """
    from pipeline.models import Classifier, read_own
    from pipeline.soups.ingredient_file import open_file
    from pipeline.weights import file_kind, load_weights, save_weights, unique_state

    checkpoint, state = read_own(path, weights, description)
    head = state.get("head.weight")
    if head is None:
        raise ModelError(f"{path}: has no classification head; `python -m pipeline import` makes one")
    model = Classifier(backbone, len(head) if head.ndim == 2 and head.numel() else 1)
    load_weights(model, state, source=str(path))
    needed = unique_state(model)
    if not path.is_dir() and file_kind(path) == "safetensors" and open_file(path).specs.keys() == needed.keys():
        return path, None
    # Weights stay in the type that they have in the file; counters that it lacks are the model's.
    floats = {name: state[name] for name, value in needed.items() if value.is_floating_point()}
    save_weights({**needed, **floats}, target, checkpoint.metadata)
    return target, checkpoint.choice
