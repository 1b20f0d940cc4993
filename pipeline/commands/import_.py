"""``python -m pipeline import``: checkpoints that are there already become the ingredients of a run."""

from __future__ import annotations

import argparse
import csv
import logging
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from pipeline.commands.common import guarded, known_names
from pipeline.config import load_config, nearest
from pipeline.errors import ConfigError
from pipeline.records import Hyperparameters, IngredientRecord
from pipeline.records.folder import RunFolder
from pipeline.stages.state import fingerprints, open_state, save_state

logger = logging.getLogger(__name__)

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")
_HUGGING_FACE = ("config.json", "open_clip_config.json")  # mark a folder that is one checkpoint
# Of the file of --accuracy-file, besides the path and the hyperparameters that a trainer has of its own.
_COLUMNS = (
    "val_accuracy",
    "select_accuracy",
    "test_accuracy",
    "gpu_hours",
    "images_seen",
    *Hyperparameters.model_fields,
)

HELP: dict[str, Any] = {
    "description": """\
Register checkpoints that were fine-tuned elsewhere as the ingredients of a run, in place of its search stage:
safetensors, PyTorch state dicts (nothing is unpickled), Hugging Face folders; with the names of this pipeline,
mlfoundations/model-soups, open_clip, transformers' CLIP, torchvision or timm. Then `run` with the same settings
builds soups and report. The settings say how the model is built (`model`) and which images measure it (`data`).
CLIP by OpenAI and what was fine-tuned from it has QuickGELU: take ViT-B-32-quickgelu, not ViT-B-32. The same
command goes on where it stopped, and with more checkpoints it adds them.""",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
    "epilog": """\
the file of --accuracy-file: CSV with a column `path` (a checkpoint, or its file name) and any of
  val_accuracy, select_accuracy, test_accuracy   fractions on the splits of the settings; measured where missing
  gpu_hours                                      what the fine-tuning cost, for the cost curve
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
    parser.add_argument("--accuracy-file", type=Path, metavar="CSV", help="what is known of the checkpoints, see below")
    parser.add_argument("--fresh", action="store_true", help="start over; the earlier run is moved aside, not deleted")
    parser.add_argument("--theta0", type=Path, metavar="PATH", help="the weights that all were fine-tuned from")
    parser.set_defaults(execute=execute, overrides=[])


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    return guarded(lambda: import_run(arguments))


def import_run(arguments: argparse.Namespace) -> None:
    """Import the checkpoints into the run of the settings. Raises PipelineError."""
    settings = [path for path in arguments.paths if "=" in path and not Path(path).exists()]
    settings += arguments.overrides
    config = load_config(arguments.config, settings, known_names)
    theta0 = None if arguments.theta0 is None else arguments.theta0.expanduser().absolute()
    checkpoints = find_checkpoints([Path(path) for path in arguments.paths if path not in settings])
    checkpoints = [path for path in checkpoints if path != theta0]
    if not checkpoints:
        raise ConfigError("PATH: name a checkpoint or a folder of checkpoints")

    from pipeline.finetune import TRAINERS  # slow to import, as are the others

    columns_of: dict[Path, dict[str, Any]] = {}
    if arguments.accuracy_file is not None:
        hyperparameters = TRAINERS[config.search.trainer].hyperparameters
        columns_of = read_accuracy_file(arguments.accuracy_file, checkpoints, hyperparameters)

    from pipeline.registry import connect, store_errors
    from pipeline.stages.imported import import_checkpoints
    from pipeline.stages.running import open_run

    connect(str(config.registry.tracking_uri))
    state, moved_to = open_state(config, fresh=arguments.fresh)
    if moved_to is not None:
        logger.info("the earlier run is kept in %s", moved_to)
    if not state.imported and RunFolder(config.output).run.exists():
        raise ConfigError(f"output: {config.output} holds a sweep of trials; give the imported run another folder")
    added = [path for path in checkpoints if str(path) not in state.imported]
    if without_cost := [path for path in added if "gpu_hours" not in columns_of.get(path, {})]:
        logger.info("import: %d of %d checkpoints have no gpu_hours and count as free", len(without_cost), len(added))
    # The index of a checkpoint is its position among all that this run ever imported, so new ones come last.
    all_checkpoints = [*map(Path, state.imported), *added]
    rows = [_row(index, columns_of.get(path, {})) for index, path in enumerate(all_checkpoints)]
    with store_errors(str(config.registry.tracking_uri)):
        import_checkpoints(open_run(config, state), all_checkpoints, rows, theta0)
    state.done["search"] = fingerprints(config)["search"]
    save_state(RunFolder(config.output), state)
    command = ["python", "pipeline/run.py", "--config", arguments.config, *settings]
    print(f"\nNext: {shlex.join(command)}")


def find_checkpoints(paths: Sequence[Path]) -> list[Path]:
    """The checkpoints that ``paths`` name, absolute: those of a folder by name, 2 before 10. Raises ConfigError."""
    checkpoints: list[Path] = []
    for path in (path.expanduser().absolute() for path in paths):
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder")
        if path.is_file() or _is_checkpoint(path):
            checkpoints.append(path)
        else:
            in_folder = sorted(filter(_is_checkpoint, path.iterdir()), key=_natural)
            if not in_folder:
                raise ConfigError(f"{path}: holds no checkpoint ({', '.join(_SUFFIXES)}, or Hugging Face folders)")
            checkpoints += in_folder
    return list(dict.fromkeys(checkpoints))


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in _HUGGING_FACE)
    return path.suffix in _SUFFIXES


def _natural(path: Path) -> list[tuple[int, str]]:
    # Digits compare as numbers, what is between them as text: model_2 before model_10.
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def read_accuracy_file(
    file: Path, checkpoints: Sequence[Path], hyperparameters: type[Hyperparameters] = Hyperparameters
) -> dict[Path, dict[str, Any]]:
    """What the CSV ``file`` says of each checkpoint, empty cells left out.

    Its columns may be all that `IngredientRecord` takes of ``hyperparameters``, those that it knows and those that a
    trainer has of its own. Raises ConfigError with line and column.
    """
    own = _own_hyperparameters(hyperparameters)
    known_columns = (*_COLUMNS, *own)
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            reader = csv.DictReader(opened)
            lines = list(reader)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"--accuracy-file: {file} cannot be read ({error})") from error
    columns = reader.fieldnames or []
    if "path" not in columns:
        raise ConfigError(f"--accuracy-file: {file} has no column 'path'")
    if unknown := [name for name in columns if name not in ("path", *known_columns)]:
        raise ConfigError(f"--accuracy-file: unknown column '{unknown[0]}'; {nearest(unknown[0], known_columns)}")
    # A line may name its checkpoint by path, by file name or without its suffix, as long as that fits one checkpoint.
    paths_by_name: dict[str, list[Path]] = {}
    for path in checkpoints:
        for name in {str(path), path.name, path.stem}:
            paths_by_name.setdefault(name, []).append(path)
    columns_of: dict[Path, dict[str, Any]] = {}
    for number, line in enumerate(lines, 2):
        name = line["path"] or ""
        matches = paths_by_name.get(name, []) or paths_by_name.get(str((file.parent / name).absolute()), [])
        if len(matches) != 1 or matches[0] in columns_of:
            reason = "names none of the checkpoints"
            if matches:
                reason = "was named before" if len(matches) == 1 else f"may be {' or '.join(map(str, matches))}"
            raise ConfigError(f"--accuracy-file: {file}, line {number}: '{name}' {reason}")
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
    return ConfigError(f"--accuracy-file: {where}: {problem['msg']}, got '{problem['input']}'")


def _row(index: int, columns: Mapping[str, Any]) -> IngredientRecord:
    values: dict[str, Any] = {"gpu_hours": 0.0, "images_seen": 0, **columns}
    return IngredientRecord(
        trial_index=index, status="finished", attempts=1, device="imported", theta0_sha256=None, **values
    )
