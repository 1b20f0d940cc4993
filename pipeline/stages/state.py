"""What a run's folder remembers between two calls of the same command: its settings, its sweep, its finished stages."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import Config, Section, StopConfig, chosen, dump_config, nested_section, plain_yaml, section_name
from pipeline.errors import ConfigError
from pipeline.files import locked, remove_partial, write_text
from pipeline.metrics import ACCURACY
from pipeline.records import IngredientRecord, SoupRecord
from pipeline.records.folder import RunFolder
from pipeline.studies import STUDIES

# What the ingredients do not depend on: changing it leaves the sweep as it is.
_FREE = {"output", "plugins", "soup", "study", "report", "data.store", "data.shifts", "data.max_pixels"} | {
    f"search.{key}" for key in ("num_trials", "gpus_per_trial", "cpus_per_trial", "max_failures", "storage", "stop")
}


class RememberedSoup(BaseModel):
    """A soup that need not be built again as long as ``key``, a hash of all that it depends on, is the same.

    After the hash the key of one that lacks damaged ingredients says so. ``run_id`` is the MLflow run of one that is
    registered.
    """

    key: str
    record: SoupRecord
    run_id: str | None = None


# What settings that there were not always have in runs from before.
_AS_EVER = (
    ("data.metric", ACCURACY),
    ("search.algorithm", "random"),
    ("search.scheduler", "none"),
    ("search.keep_stopped", False),
)


class Stopped(BaseModel):
    """That the sweep was ended by a ``rule`` (see `stop_rule`), and why. Another rule decides anew."""

    rule: dict[str, float | None]
    reason: str


class RunState(BaseModel):
    """The contents of ``state.json``: the sweep's id and size, and a fingerprint of what each finished stage used.

    ``imported`` are the checkpoints that are its ingredients in place of trials, in the order of their indices, with
    the hashes of their weights by path, and which weights were taken of files with raw and averaged ones.
    ``soups`` are those of the soup stage by method, and of studies by study, method and what varies.
    """

    sweep_id: str
    num_trials: int
    done: dict[str, str] = {}
    imported: list[str] = []
    imported_sha256: dict[str, str] = {}
    imported_weights: str = "auto"
    soups: dict[str, RememberedSoup] = {}
    stopped: Stopped | None = None


@contextlib.contextmanager
def locked_output(config: Config) -> Iterator[None]:
    """Make the folder of the run and keep other processes from working on it during the block.

    What a killed process left half-written there is removed, and a new folder in which the block made nothing. Raises
    ConfigError where nothing can be written, and where another process is at work.
    """
    output, folder = config.output, RunFolder(config.output)
    is_new = not os.path.lexists(output)
    with contextlib.ExitStack() as stack:
        try:
            if output.is_symlink() and not output.exists():
                raise FileNotFoundError(errno.ENOENT, f"it is a link to {output.readlink()}, which is not there")
            if output.is_file():
                raise NotADirectoryError(errno.ENOTDIR, "it is a file")
            output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder.lock, wait=False))
            remove_partial(output)
        except BlockingIOError as error:
            raise ConfigError(
                f"output: {output} is being worked on by {error.strerror}; wait until that ends, or give another folder"
            ) from error
        except OSError as error:
            raise ConfigError(
                f"output: {output} cannot be written ({error.strerror or error}); give another folder"
            ) from error
        try:
            yield
        finally:
            if is_new and list(output.iterdir()) == [folder.lock]:
                folder.lock.unlink()
                output.rmdir()


def open_state(config: Config, *, fresh: bool) -> tuple[RunState, Path | None]:
    """The state of the run in ``config.output``, new or as it was left; also writes ``config.yaml``.

    With ``fresh`` an earlier run is moved aside; returns its new folder. Raises ConfigError when the folder holds a run
    with other settings (naming the keys), a larger sweep, or something else.
    """
    output, folder = config.output, RunFolder(config.output)
    entries = {path.name for path in output.iterdir()} - {folder.lock.name} if output.exists() else set()
    if entries and not entries & {folder.settings.name, folder.state.name}:
        raise ConfigError(f"output: {output} is not empty and holds no run; give another folder")
    moved_to = None
    if entries and not fresh:
        state, earlier_settings = _read_earlier(folder)
        if folder.run.exists():  # until theta0 is recorded nothing depends on the settings: mistakes can be corrected
            _check_same_sweep(config, state, earlier_settings)
    else:
        if entries:
            moved_to = output.with_name(f"{output.name}-until-{datetime.now(UTC):%Y%m%d-%H%M%S}")
            output.rename(moved_to)
            if (lock := RunFolder(moved_to).lock).exists():  # which is held for the folder, not for the earlier run
                output.mkdir()
                lock.rename(folder.lock)
        sweep_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        state = RunState(sweep_id=sweep_id, num_trials=config.search.num_trials)
    state.num_trials = config.search.num_trials
    save_state(folder, state)
    write_text(folder.settings, dump_config(config))
    return state, moved_to


def _read_earlier(folder: RunFolder) -> tuple[RunState, Any]:
    """What an earlier call left: its state, and its settings as plain values."""
    try:
        state = RunState.model_validate_json(folder.state.read_text(encoding="utf-8"))
        settings = plain_yaml(folder.settings.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"{folder.settings.name} holds no settings")
    except (OSError, ValueError, ValidationError, yaml.YAMLError, ConfigError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{folder.root}: the run in it cannot be read ({reason}). Give another `output`, "
            "or --fresh to start over (what is there is kept)"
        ) from error
    return state, settings


def _check_same_sweep(config: Config, state: RunState, earlier_settings: Any) -> None:
    settings, defaults = plain_yaml(dump_config(config)), dict(_defaults(type(config)))
    if changed := sorted(_changed_keys(earlier_settings, settings, defaults)):
        raise ConfigError(
            f"{config.output}: holds a run with other settings: {', '.join(changed)}. Give another `output`, the old "
            "settings, or --fresh to start over (the old run is kept)"
        )
    if config.search.num_trials < state.num_trials:
        raise ConfigError(
            f"search.num_trials: is {config.search.num_trials}, but the sweep in {config.output} already has "
            f"{state.num_trials} trials; a sweep can grow, not shrink. Give another `output` or --fresh"
        )


def is_done(config: Config, stages: Iterable[str]) -> bool:
    """Whether the run in ``config.output`` has finished these ``stages`` with these settings; reads one file."""
    state = read_state(config)
    fingerprint_of = fingerprints(config)
    return state is not None and all(state.done.get(stage) == fingerprint_of[stage] for stage in stages)


def is_imported(config: Config) -> bool:
    """Whether the ingredients of the run in ``config.output`` were imported."""
    state = read_state(config)
    return state is not None and bool(state.imported)


def read_state(config: Config) -> RunState | None:
    """The state of the run in ``config.output``, None where there is none that can be read."""
    try:
        return RunState.model_validate_json(RunFolder(config.output).state.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def left_out(config: Config, state: RunState) -> dict[int, int | str]:
    """The trials that `soup.leave_out` names, by index, each with the name that is used there.

    Raises ConfigError for names that there are not, and where no trial is left.
    """
    ingredients = state.imported or [f"trial {index}" for index in range(state.num_trials)]
    found = chosen(config.soup.leave_out, [Path(name) for name in ingredients], "soup.leave_out")
    if len(found) == len(ingredients):
        raise ConfigError("soup.leave_out: names all ingredients; leave one to make a soup of")
    return found


def with_left_out(rows: Iterable[IngredientRecord], names: Mapping[int, int | str]) -> list[IngredientRecord]:
    """The ``rows`` with the status that finished trials have while `soup.leave_out` has these ``names`` of some."""
    return [_marked(row, names.get(row.trial_index)) for row in rows]


def _marked(row: IngredientRecord, name: int | str | None) -> IngredientRecord:
    # What the row was before stands after the mark: a finished trial has no reason, a stopped one has.
    before = (row.reason or "").partition("; ")[2] if row.status == "left-out" else row.reason or ""
    if not (row.is_ingredient or row.status == "left-out"):
        return row
    if name is None:
        return row.model_copy(update={"status": "stopped" if before else "finished", "reason": before or None})
    reason = f"soup.leave_out names {name}" + (f"; {before}" if before else "")
    return row.model_copy(update={"status": "left-out", "reason": reason})


def save_state(folder: RunFolder, state: RunState) -> None:
    """Write ``state.json``."""
    write_text(folder.state, state.model_dump_json(indent=1))


def all_stages() -> tuple[str, ...]:
    """All stages in order; every study of `STUDIES` is one."""
    return ("search", "soup", *STUDIES, "report")


def stop_rule(config: Config) -> dict[str, float | None]:
    """What `search.stop` decides by: its values, and the price where there is a limit to that."""
    rule = config.search.stop
    price = {} if rule.max_price is None else {"price_per_gpu_hour": config.report.price_per_gpu_hour}
    return {**rule.model_dump(), **price}


def fingerprints(config: Config) -> dict[str, str]:
    """For each stage a hash of the settings that it and what it needs depend on.

    They form a tree: the hash of a stage begins with that of the stage whose results it is about. `search` hashes what
    the ingredients depend on, and how many there are; `soup` that, its own section and the shifts; a study `soup` (or
    `search`, see `Study.needs`) and its own section, so that studies do not need each other; `report` all studies.
    """
    # Each `_chained` is a node: the hashes of what the stage needs, then its own settings. A changed setting so changes
    # the hash of its stage and of all stages after it in the tree, and those alone run again.
    values = config.model_dump(mode="json")
    has_rule = StopConfig.model_validate(values["search"].get("stop", {})).is_given
    of_ingredients = {
        key: value
        for key, value in _flat(values)
        if (not _is_free(key) or key == "search.num_trials" or (has_rule and key.startswith("search.stop.")))
        and (key, value) not in _AS_EVER
    }
    if "search.stop.max_price" in of_ingredients:
        of_ingredients["report.price_per_gpu_hour"] = values["report"]["price_per_gpu_hour"]
    search = _chained("", of_ingredients)
    shifts = values["data"]["shifts"]
    soup = _chained(search, {**values["soup"], **({"shifts": shifts} if shifts else {})})
    hash_of_stage = {"search": search, "soup": soup}
    left = values["soup"]["leave_out"]  # studies of the search stage alone are about the other ingredients too
    hash_of_needed = {"search": _chained(search, left) if left else search, "soup": soup}
    sections = dict(values["study"])
    if curve := sections.get("cost_accuracy"):  # when its soups are built changes nothing of them
        sections["cost_accuracy"] = {key: value for key, value in curve.items() if key != "live"}
    studies = {
        name: _chained(f"{hash_of_needed[study.needs]}{name}", sections.get(section_name(name)))
        for name, study in STUDIES.items()
    }
    report = _chained("".join(studies.values()), values["report"])
    return {**hash_of_stage, **studies, "report": report}


def remove_studies(folder: RunFolder, state: RunState, stage: str) -> None:
    """Remove the tables of the studies that depend on ``stage``, which then are not done; their soups are kept."""
    for name, study in STUDIES.items():
        if stage == "search" or study.needs == stage:
            state.done.pop(name, None)  # first: whatever settings come next, what has no table is not done
            save_state(folder, state)
            for table in study.tables:
                folder.table(table).unlink(missing_ok=True)


def _chained(prefix: str, values: Any) -> str:
    """The hash of a stage: of ``prefix``, which holds the hashes of what it needs, and of its own settings."""
    return hashlib.sha256(f"{prefix}{json.dumps(values, sort_keys=True)}".encode()).hexdigest()


def _changed_keys(earlier_settings: Any, settings: Any, defaults: Mapping[str, Any]) -> Iterator[str]:
    """The settings, as ``section.key``, that differ and that ingredients depend on."""
    # An older version wrote no value for a setting that it did not know: it did what is the default now.
    old, new = ({**defaults, **dict(_flat(values))} for values in (earlier_settings, settings))
    yield from (key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and not _is_free(key))


def _defaults(section: type[Section], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        nested = nested_section(field)
        if nested is not None:
            yield from _defaults(nested, f"{prefix}{name}.")
        elif isinstance(field.default, bool | int | float | str):
            yield f"{prefix}{name}", field.default


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    # {"data": {"store": "x"}} as ("data.store", "x"); what is None or an empty section is left out.
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _is_free(key: str) -> bool:
    # A setting is free if it or a section that it is in, `report` for `report.title` say, is in _FREE.
    parts = key.split(".")
    return any(".".join(parts[:length]) in _FREE for length in range(1, len(parts) + 1))
