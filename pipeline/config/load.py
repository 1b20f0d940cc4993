"""From a YAML file and the command line to checked settings, and back.

`load_config` reports all problems of a file together, each with its line, its dotted path and, for a misspelt name, the
nearest valid one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.base import Known, Section, nearest, nested_section, unfit_value
from pipeline.config.plugins import import_plugins, plugins_of
from pipeline.config.sections import Config, config_type
from pipeline.config.yaml_text import DEEPEST, LARGEST_TEXT, Place, ValuePath, dump_yaml, meaning, read_yaml
from pipeline.errors import LONGEST_QUOTE, ConfigError, listed, printable, quoted, shortened
from pipeline.files import is_special

_LONGEST_PROBLEM = 1000  # characters


def load_config(path: str | Path, overrides: Sequence[str], known_names: Callable[[], Known]) -> Config:
    """Read a YAML file, apply ``dotted.key=value`` overrides (values are YAML), import plug-ins, validate.

    ``known_names`` is called after the plug-ins have added their lines. Raises ConfigError listing every problem.
    """
    path = Path(path)
    if is_special(path):
        raise ConfigError(f"{path}: is a pipe, a socket or a device; give a file of settings")
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST_TEXT + 1)  # one more: that is too large
        values, places = read_yaml(text, lambda line: f"{path}:{line}")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); see configs/ for examples") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise ConfigError(f"{path}: must hold settings as `key: value`, but {found}; see configs/ for examples")
    for override in overrides:
        _apply_override(values, places, override)
    import_plugins(plugins_of(values))
    known = known_names()
    kind = config_type(known.studies)
    try:
        return kind.model_validate(values, context=known)
    except ValidationError as error:
        problems = list(dict.fromkeys(_problems(error, kind, places)))
        if len(problems) == 1:
            where, problem = problems[0]
            raise ConfigError(f"{where or path}: {problem}") from error
        lines = [problem if where is None else f"{problem} ({where})" for where, problem in problems]
        raise ConfigError(f"{path}: {len(lines)} problem(s) in the settings:\n  {listed(lines)}") from error


def dump_config(config: Config) -> str:
    """The resolved settings as YAML; `load_config` reads it back to an equal `Config`."""
    values = config.model_dump(mode="json", exclude_none=True)
    values["soup"]["settings"] = config.soup.settings  # here None is a value: `block_size: null` is all models
    return dump_yaml(values)


def _apply_override(values: dict[str, Any], places: dict[ValuePath, Place], override: str) -> None:
    key, equals, text = override.partition("=")
    shown = f"override {quoted(override)}"
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise ConfigError(f"{shown}: write it as dotted.key=value, e.g. search.num_trials=32")
    if key.count(".") >= DEEPEST:
        raise ConfigError(f"{shown}: has more than {DEEPEST} groups within each other; no setting is so deep")
    try:
        value, value_places = read_yaml(text, lambda line: f"override {quoted(key)}")
    except yaml.YAMLError as error:
        reason = (isinstance(error, yaml.MarkedYAMLError) and error.problem) or " ".join(str(error).split())
        raise ConfigError(f"{shown}: is not valid YAML: {reason}") from error
    *parents, last = key.split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"{shown}: '{parent}' is a value and has no keys below it")
    values[last] = value
    path = (*parents, last)
    for replaced in [place for place in places if place[: len(path)] == path]:
        del places[replaced]
    places.update({(*path, *below): place for below, place in value_places.items()})


def _problems(
    error: ValidationError, kind: type[Config], places: Mapping[ValuePath, Place]
) -> Iterator[tuple[str | None, str]]:
    """Where each problem stands, if that is known, and what it is."""
    for problem in error.errors():
        # What pydantic adds to the path of a value (the form that it tried) comes last.
        known = (problem["loc"][:length] for length in range(len(problem["loc"]), 0, -1))
        path = next((path for path in known if path in places), None)
        key, place = problem["loc"], None if path is None else places[path]
        match problem["type"]:
            case "extra_forbidden":
                what = f"unknown key; {nearest(str(key[-1]), _keys_at(kind, key[:-1]))}"
            case "missing":
                what = "is required"
            case "value_error":
                what = str(problem["ctx"]["error"])
            case "string_type" if place is not None and place.text is not None:
                text = shortened(place.text, LONGEST_QUOTE)
                what = f"`{text}` is read as {meaning(place.value)}; put it in quotes if text is meant"
            case _ if path is not None and place is not None and isinstance(place.value, bool):
                key = path  # of each form that pydantic tried the same
                what = f"`{place.text}` is read as {meaning(place.value)}, which this setting does not take"
            case _:
                what = unfit_value(problem)
        name = ".".join(shortened(str(part), LONGEST_QUOTE) for part in key) or "settings"
        yield (None if place is None else place.where), shortened(printable(f"{name}: {what}"), _LONGEST_PROBLEM)


def _keys_at(kind: type[Config], location: tuple[int | str, ...]) -> Collection[str]:
    section: type[Section] = kind
    for part in location:
        field = section.model_fields.get(str(part))
        section = (nested_section(field) if field is not None else None) or section
    return list(section.model_fields)
