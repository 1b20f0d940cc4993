"""From a YAML file and the command line to checked settings, and back.

`load_config` reports all problems of a file together, each with its dotted path and, for a misspelt name, the nearest
valid one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.config.base import Known, Section, nearest, nested_section
from pipeline.config.plugins import import_plugins, plugins_of
from pipeline.config.sections import Config, config_type
from pipeline.errors import ConfigError


def load_config(path: str | Path, overrides: Sequence[str], known_names: Callable[[], Known]) -> Config:
    """Read a YAML file, apply ``dotted.key=value`` overrides (values are YAML), import plug-ins, validate.

    ``known_names`` is called after the plug-ins have added their lines. Raises ConfigError listing every problem.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); see configs/ for examples") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        found = "is empty" if values is None else f"holds a {type(values).__name__}"
        raise ConfigError(f"{path}: must hold settings as `key: value`, but {found}; see configs/ for examples")
    for override in overrides:
        _apply_override(values, override)
    import_plugins(plugins_of(values))
    known = known_names()
    kind = config_type(known.studies)
    try:
        return kind.model_validate(values, context=known)
    except ValidationError as error:
        problems = list(dict.fromkeys(_problems(error, kind)))
        if len(problems) == 1:
            raise ConfigError(f"{path}: {problems[0]}") from error
        raise ConfigError("\n  ".join([f"{path}: {len(problems)} problem(s) in the settings:", *problems])) from error


def dump_config(config: Config) -> str:
    """The resolved settings as YAML; `load_config` reads it back to an equal `Config`."""
    values = config.model_dump(mode="json", exclude_none=True)
    values["soup"]["settings"] = config.soup.settings  # here None is a value: `block_size: null` is all models
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        raise ConfigError(f"override '{override}': write it as dotted.key=value, e.g. search.num_trials=32")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{override}': '{text}' is not valid YAML") from error
    *parents, last = key.split(".")
    for parent in parents:
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise ConfigError(f"override '{override}': '{parent}' is a value and has no keys below it")
    values[last] = value


def _problems(error: ValidationError, kind: type[Config]) -> Iterator[str]:
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "settings"
        match problem["type"]:
            case "extra_forbidden":
                yield f"{where}: unknown key; {nearest(str(problem['loc'][-1]), _keys_at(kind, problem['loc'][:-1]))}"
            case "missing":
                yield f"{where}: is required"
            case "value_error":
                yield f"{where}: {problem['ctx']['error']}"
            case _:
                yield f"{where}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def _keys_at(kind: type[Config], location: tuple[int | str, ...]) -> Collection[str]:
    section: type[Section] = kind
    for part in location:
        field = section.model_fields.get(str(part))
        section = (nested_section(field) if field is not None else None) or section
    return list(section.model_fields)
