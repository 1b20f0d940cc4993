"""``python -m pipeline import``: checkpoints that are there already become the ingredients of a run."""

from __future__ import annotations

import argparse
import csv
import logging
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from unicodedata import category

from pydantic import TypeAdapter, ValidationError

from pipeline.commands.common import guarded, known_names, path_argument
from pipeline.config import Config, chosen, load_config, nearest
from pipeline.errors import ConfigError, quoted
from pipeline.files import absence, absolute_path, is_special, positions_by_name
from pipeline.records import Hyperparameters, IngredientRecord
from pipeline.records.folder import RunFolder
from pipeline.stages.state import fingerprints, locked_output, open_state, save_state
from pipeline.stages.trainer_state import read_trainer_state

logger = logging.getLogger(__name__)

# What `pipeline.weights`, which is slow to import, takes as a choice.
WEIGHTS = ("auto", "raw", "averaged")
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
# Mark a folder that is one checkpoint; large models have an index of their files. Adapters and shards are none, as is
# said when they are read.
_HUGGING_FACE = ("config.json", "open_clip_config.json", "*.safetensors.index.json", "*.bin.index.json")
_NO_MODELS = ("adapter_config.json", "pytorch_model_fsdp_*")
_OF_TRAINER = re.compile(r"checkpoint-\d+")  # folders that Hugging Face's Trainer saves in one of its own
# What training scripts write beside a model: optimizer.pt, scheduler.pt, rng_state_0.pth, training_args.bin, …
_COMPANION = re.compile(
    r"(.*[-_.])?(optimizer|optim|opt|(lr_?)?scheduler|sched|(grad_?)?scaler|rng_states?|random_states?|training_args)"
    r"([-_.]?\d+)*",
    re.IGNORECASE,
)
# Of the file of --accuracy-file, besides the path and the hyperparameters that a trainer has of its own.
_COLUMNS = (
    "val_accuracy",
    "select_accuracy",
    "test_accuracy",
    "gpu_hours",
    "cpu_core_hours",
    "images_seen",
    *Hyperparameters.model_fields,
)
_COSTS = {"gpu_hours", "cpu_core_hours"}

HELP: dict[str, Any] = {
    "description": """\
Register checkpoints that were fine-tuned elsewhere as the ingredients of a run, in place of its search stage:
safetensors, PyTorch state dicts (nothing is unpickled), Hugging Face folders; with the names of this pipeline,
mlfoundations/model-soups, open_clip, transformers' CLIP, torchvision or timm, and text classifiers that Hugging
Face's Trainer saved (folders like checkpoint-500, or folders of these, one of them as `model.name`; epochs, lr and
batch_size are read from trainer_state.json). Then `run` with the same settings builds soups and report. The settings
say how the model is built (`model`) and which images or texts measure it (`data`).
CLIP by OpenAI and what was fine-tuned from it has QuickGELU: take ViT-B-32-quickgelu, not ViT-B-32. The same
command goes on where it stopped, and with more checkpoints it adds them.""",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "epilog": """\
the file of --accuracy-file: CSV with a column `path` (a checkpoint, or its file name) and any of
  val_accuracy, select_accuracy, test_accuracy   fractions on the splits of the settings; measured where missing
  gpu_hours, cpu_core_hours                      what the fine-tuning cost, for the cost curve; never added up
  lr, weight_decay, epochs, ...                  hyperparameters (of `search.trainer`), for the tables

example:
  python -m pipeline import /models/model_*.pt --config mine.yaml --accuracy-file costs.csv
  python pipeline/run.py --config mine.yaml""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a checkpoint or a folder of them; KEY=VALUE: a setting over the file's",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="settings in YAML, as for `run`")
    parser.add_argument(
        "--accuracy-file", type=path_argument, metavar="CSV", help="what is known of the checkpoints, see below"
    )
    add_weights_argument(parser)
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="NAME",
        help="a checkpoint of these that is not imported, by path or file name; may be given several times",
    )
    parser.add_argument("--fresh", action="store_true", help="start over; the earlier run is moved aside, not deleted")
    parser.add_argument(
        "--theta0", type=path_argument, metavar="PATH", help="the weights that all were fine-tuned from"
    )
    parser.set_defaults(execute=execute, overrides=[])


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """``--weights``, for the commands that read checkpoints of others."""
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="which to take of a file with raw and averaged weights (EMA, SWA); auto: the averaged, if there are any",
    )


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return guarded(lambda: import_run(arguments))


def import_run(arguments: argparse.Namespace) -> None:
    """Import the checkpoints into the run of the settings. Raises PipelineError."""
    settings = [path for path in arguments.paths if "=" in path and absence(Path(path)) is not None]
    settings += arguments.overrides
    config = load_config(arguments.config, settings, known_names)
    found = find_checkpoints([path for path in arguments.paths if path not in settings])
    found = [path for path in found if path != arguments.theta0]
    without = chosen(arguments.leave_out, found, "--leave-out")
    if len(without) == len(found):
        raise ConfigError("PATH: name a checkpoint or a folder of checkpoints")

    from pipeline.finetune import TRAINERS  # slow to import, as are the others

    columns_of: dict[Path, dict[str, Any]] = {}
    if arguments.accuracy_file is not None:
        hyperparameters = TRAINERS[config.search.trainer].hyperparameters
        columns_of = read_accuracy_file(arguments.accuracy_file, found, hyperparameters)

    with locked_output(config):
        _import(config, arguments, found, without, columns_of)
    command = ["python", "pipeline/run.py", "--config", arguments.config, *settings]
    print(f"\nNext: {shlex.join(command)}")


def _import(
    config: Config,
    arguments: argparse.Namespace,
    found: Sequence[Path],
    without: Collection[int],
    columns_of: Mapping[Path, Mapping[str, Any]],
) -> None:
    """Import those ``found`` checkpoints that are not at the positions ``without``."""
    from pipeline.registry import connect, store_errors, under_way
    from pipeline.stages.imported import import_checkpoints
    from pipeline.stages.restoring import restore
    from pipeline.stages.running import open_run

    connect(str(config.registry.tracking_uri))
    state, moved_to = open_state(config, fresh=arguments.fresh)
    if moved_to is not None:
        logger.info("the earlier run is kept in %s", moved_to)
    if not state.imported and RunFolder(config.output).run.exists():
        raise ConfigError(f"output: {config.output} holds a sweep of trials; give the imported run another folder")
    if state.imported and state.imported_weights != arguments.weights:
        raise ConfigError(
            f"--weights: is {arguments.weights}, but the ingredients of {config.output} were imported with "
            f"{state.imported_weights}; give that, or --fresh to start over"
        )
    if already := [found[position] for position in without if str(found[position]) in state.imported]:
        raise ConfigError(
            f"--leave-out: {already[0]} is imported; no soup is made of it with `soup.leave_out=[{already[0].name}]`"
        )
    chosen_now = [path for position, path in enumerate(found) if position not in without]
    added = [path for path in chosen_now if str(path) not in state.imported]
    if without_cost := [path for path in added if not _COSTS & columns_of.get(path, {}).keys()]:
        logger.info("import: %d of %d checkpoints have no gpu_hours and count as free", len(without_cost), len(added))
    trained = _as_trained(added)
    # The index of a checkpoint is its position among all that this run ever imported, so new ones come last.
    all_checkpoints = [*map(Path, state.imported), *added]
    rows = [
        _row(index, {**trained.get(path, {}), **columns_of.get(path, {})}) for index, path in enumerate(all_checkpoints)
    ]
    restore(config, state)
    with store_errors(str(config.registry.tracking_uri)):
        run = open_run(config, state)
        with under_way(run.sweep):
            import_checkpoints(run, all_checkpoints, rows, arguments.theta0, arguments.weights)
    state.done["search"] = fingerprints(config)["search"]
    save_state(RunFolder(config.output), state)


def _as_trained(checkpoints: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """By checkpoint the hyperparameters that Hugging Face's Trainer wrote beside it; the log says what was taken."""
    states = {path: state for path in checkpoints if (state := read_trainer_state(path)) is not None}
    for path, state in states.items():
        if state.problem is not None:
            logger.info("%s: trainer_state.json %s; nothing is taken from it", path, state.problem)
        elif state.hours is not None:
            logger.info(
                "%s: was trained for %.2f hours, on what trainer_state.json does not say; give gpu_hours or "
                "cpu_core_hours by --accuracy-file",
                path,
                state.hours,
            )
    for name, what in {
        "epochs": "epochs",
        "lr": "lr (the highest that was logged)",
        "batch_size": "batch_size (of one process, without accumulation)",
    }.items():
        if count := sum(name in state.columns for state in states.values()):
            logger.info(
                "import: %s is taken from trainer_state.json for %d of %d checkpoints", what, count, len(checkpoints)
            )
    return {path: state.columns for path, state in states.items()}


def find_checkpoints(paths: Sequence[str | Path]) -> list[Path]:
    """The checkpoints that ``paths`` name, absolute: those of a folder by name, 2 before 10.

    A folder may hold the output folders of Hugging Face's Trainer too, whose ``checkpoint-500`` are taken, unless a
    model was saved beside them: then that. What else lies in a folder (hidden files, states of optimizers, files of
    other kinds) is passed over, and the log names it. Raises ConfigError that lists the paths which name none.
    """
    checkpoints: list[Path] = []
    problems: list[str] = []
    for given in paths:
        try:
            path = absolute_path(given)
        except ValueError as error:
            problems.append(f"PATH: {error}")
            continue
        if (why := absence(path)) is not None:
            problems.append(f"{path}: {why}; check the path")
        elif not path.is_dir() or _is_checkpoint(path):
            checkpoints.append(path)
            _tell_inner(path)
        else:
            try:
                entries = sorted(path.iterdir(), key=_natural)
                found = {entry: [entry] if _is_checkpoint(entry) else _of_trainer(entry) for entry in entries}
                in_folder = [checkpoint for entry in entries for checkpoint in found[entry]]
            except OSError as error:
                problems.append(f"{path}: cannot be read ({error.strerror}); check its permissions")
                continue
            if not in_folder:
                problems.append(f"{path}: holds no checkpoint ({', '.join(_SUFFIXES)}, or Hugging Face folders)")
            for entry in in_folder:
                _tell_inner(entry)
            if others := [entry.name for entry in entries if not found[entry]]:
                more = f" and {len(others) - 8} more" if len(others) > 8 else ""
                logger.info("%s: passed over, as no checkpoints: %s%s", path, ", ".join(others[:8]), more)
            checkpoints += in_folder
    # Such a name could neither be shown nor recorded: line ends and other controls, bytes that are no text.
    unwritable = [path for path in checkpoints if any(category(letter) in ("Cc", "Cs") for letter in str(path))]
    problems += [f"{str(path)!a}: has control characters in its name, or no text; rename it" for path in unwritable]
    if problems:
        raise ConfigError("\n  ".join(problems))
    return list(dict.fromkeys(checkpoints))


def _is_checkpoint(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    if path.is_dir():
        return any(any(path.glob(name)) for name in (*_HUGGING_FACE, *_NO_MODELS))
    return path.suffix.lower() in _SUFFIXES and not _COMPANION.fullmatch(path.stem)


def _of_trainer(folder: Path) -> list[Path]:
    """The checkpoints in an output folder of Hugging Face's Trainer, by step; none of what is no such folder."""
    inner = (path for path in folder.glob("checkpoint-*") if _OF_TRAINER.fullmatch(path.name) and _is_checkpoint(path))
    return sorted(inner, key=_natural)


def _tell_inner(checkpoint: Path) -> None:
    if inner := _of_trainer(checkpoint):
        names = ", ".join(one.name for one in inner)
        logger.info("%s: is a model; passed over in it: %s (name them to import them)", checkpoint, names)


def _natural(path: Path) -> list[tuple[int, str]]:
    # Digits compare as numbers, what is between them as text: model_2 before model_10.
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def read_accuracy_file(
    file: Path, checkpoints: Sequence[Path], hyperparameters: type[Hyperparameters] = Hyperparameters
) -> dict[Path, dict[str, Any]]:
    """What the CSV ``file`` says of each checkpoint, empty cells left out.

    Its columns may be all that `IngredientRecord` takes of ``hyperparameters``, those that it knows and those that a
    trainer has of its own. Raises ConfigError with line and column.
    """
    own = _own_hyperparameters(hyperparameters)
    known_columns = (*_COLUMNS, *own)
    if is_special(file):
        raise ConfigError(f"--accuracy-file: {file} is a pipe, a socket or a device; give a file")
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            lines = list(reader)
            columns = list(reader.fieldnames or [])
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"--accuracy-file: {file} cannot be read ({error})") from error
    if not columns:
        raise ConfigError(f"--accuracy-file: {file} is empty; its first line must name the columns, `path` and others")
    if "path" not in columns:
        raise ConfigError(
            f"--accuracy-file: {file} has no column 'path' but {', '.join(map(quoted, columns[:4]))}; "
            "name it in the first line, with commas between the columns"
        )
    if unknown := [name for name in columns if name not in ("path", *known_columns)]:
        raise ConfigError(f"--accuracy-file: unknown column {quoted(unknown[0])}; {nearest(unknown[0], known_columns)}")
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise ConfigError(f"--accuracy-file: {file} has two columns {quoted(twice[0])}; leave one of them")
    # A line may name its checkpoint by path, by file name or without its suffix, as long as that fits one checkpoint.
    positions = positions_by_name(checkpoints)
    columns_of: dict[Path, dict[str, Any]] = {}
    for number, line in enumerate(lines, 2):
        if None in line:
            raise ConfigError(
                f"--accuracy-file: {file}, line {number}: has more cells than the first line has columns; quote texts "
                "with commas in them"
            )
        name = line["path"] or ""
        named = positions.get(name, []) or positions.get(str((file.parent / name).absolute()), [])
        matches = [checkpoints[position] for position in named]
        if len(matches) != 1 or matches[0] in columns_of:
            reason = "names none of the checkpoints"
            if matches:
                reason = "was named before" if len(matches) == 1 else f"may be {' or '.join(map(str, matches))}"
            raise ConfigError(f"--accuracy-file: {file}, line {number}: {quoted(name)} {reason}")
        cells = {name: text for name, text in line.items() if name in known_columns and text}
        columns_of[matches[0]] = _checked(cells, own, f"{file}, line {number}")
    return columns_of


def _own_hyperparameters(hyperparameters: type[Hyperparameters]) -> dict[str, TypeAdapter[Any]]:
    """By name what makes values, checked as the field says, of the texts of a trainer's own hyperparameters."""
    fields: dict[str, Any] = {  # with its constraints, as `TypeAdapter` takes a type
        name: Annotated[field.annotation, field]
        for name, field in hyperparameters.model_fields.items()
        if name not in Hyperparameters.model_fields
    }
    return {name: TypeAdapter(field, config=hyperparameters.model_config) for name, field in fields.items()}


def _checked(cells: Mapping[str, str], own: Mapping[str, TypeAdapter[Any]], line: str) -> dict[str, Any]:
    """The cells of a line as `_row` takes them: a record checks what it knows and keeps the others as they stand.

    So those get their type here. Raises ConfigError that names ``line`` and column.
    """
    values: dict[str, Any] = dict(cells)
    for name in [name for name in cells if name in own]:
        try:
            values[name] = own[name].validate_strings(cells[name])
        except ValidationError as error:
            raise _bad_cell(error, line, name) from error
    try:
        _row(0, values)
    except ValidationError as error:
        raise _bad_cell(error, line, error.errors()[0]["loc"][0]) from error
    return values


def _bad_cell(error: ValidationError, line: str, column: object) -> ConfigError:
    problem = error.errors()[0]
    where = f"{line}, column '{column}'"
    return ConfigError(f"--accuracy-file: {where}: {problem['msg']}, got {quoted(problem['input'])}")


def _row(index: int, columns: Mapping[str, Any]) -> IngredientRecord:
    values: dict[str, Any] = {"gpu_hours": 0.0, "images_seen": 0, **columns}
    return IngredientRecord(
        trial_index=index, status="finished", attempts=1, device="imported", theta0_sha256=None, **values
    )
