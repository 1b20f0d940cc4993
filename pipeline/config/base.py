"""What all sections of the settings are made of: their base, the names that they may take, hints for misspelt ones."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, get_args, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipeline.errors import ConfigError, quoted, shortened
from pipeline.files import absolute_path, positions_by_name
from pipeline.records import Hyperparameters

if TYPE_CHECKING:
    from pipeline.config.sections import Config
    from pipeline.config.spaces import Space


_NAMES_SHOWN = 40
_LONGEST_WORD = 100  # that is looked for among names
HIGHEST_SEED = 2**63 - 1  # what torch and tables take
MOST = 10**9  # of whatever is counted


@dataclasses.dataclass(frozen=True)
class Known:
    """The names that settings may take, handed in by the caller so that each table has one home.

    ``sources`` maps a data source to the settings it needs, ``methods`` a soup method to its default settings (a frozen
    dataclass, or None), ``trainers`` a training function to the hyperparameters that it takes,
    ``meaningless`` a data source to those that mean nothing for what it holds, ``own_spaces`` one to the space that is
    the default for what it holds, where that is not the default of `SearchConfig`.
    """

    sources: Mapping[str, Collection[str]]
    backbones: Collection[str]
    spaces: Mapping[str, Space]
    trainers: Mapping[str, type[Hyperparameters]]
    methods: Mapping[str, Any]
    studies: Mapping[str, HasSettings]
    metrics: Collection[str]
    meaningless: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)
    own_spaces: Mapping[str, str] = dataclasses.field(default_factory=dict)


class HasSettings(Protocol):
    """What a study says of its section of the settings, `study.NAME`.

    ``settings`` is the type of the section (a `Section`, or whatever pydantic can check), None for a study without.
    ``resolve`` completes checked settings by those of the whole run, and raises ValueError for what does not fit.
    """

    @property
    def settings(self) -> Any:
        """The type of the section."""

    @property
    def resolve(self) -> Callable[[Any, Config, Known], Any] | None:
        """Called with the section, all settings, and the names."""


def nearest(word: str, valid: Collection[str]) -> str:
    """A hint for a misspelt ``word``: the nearest of ``valid``, or all of them (of very many the first)."""
    if close := difflib.get_close_matches(word[:_LONGEST_WORD], list(valid), n=1, cutoff=0.5):
        return f"did you mean '{close[0]}'?"
    more = f", ... ({len(valid)} in all)" if len(valid) > _NAMES_SHOWN else ""
    return f"choose from: {', '.join(itertools.islice(valid, _NAMES_SHOWN))}{more}"


def chosen(names: Sequence[int | str], paths: Sequence[Path], option: str) -> dict[int, int | str]:
    """The positions in ``paths`` that ``names`` mean, in order, each with its name: a position, or that of a file.

    Raises ConfigError that lists the names which mean none or several, by the ``option`` that they were given with.
    """
    positions = positions_by_name(paths)
    found: dict[int, int | str] = {}
    problems: list[str] = []
    for name in names:
        if isinstance(name, int):
            matches = [name] if 0 <= name < len(paths) else []
            hint = f"there are 0 to {len(paths) - 1}"
        else:
            matches = positions.get(name, [])
            with contextlib.suppress(ValueError):  # what is no path names nothing
                matches = matches or positions.get(str(absolute_path(name)), [])
            hint = nearest(name, [path.name for path in paths])
        if len(matches) > 1:
            problems.append(f"{quoted(str(name))} may be {' or '.join(str(paths[match]) for match in matches)}")
        elif not matches:
            problems.append(f"{quoted(str(name))} names none of the {len(paths)} ingredients; {hint}")
        else:
            found[matches[0]] = name
    if problems:
        raise ConfigError(f"{option}: {'; '.join(problems)}")
    return dict(sorted(found.items()))


def context(info: ValidationInfo) -> Known:
    """The names that `load_config` was given; raises TypeError for settings that were made without it."""
    if not isinstance(info.context, Known):
        raise TypeError("settings are validated by load_config, which knows the valid names")
    return info.context


def known(kind: str) -> AfterValidator:
    """Accepts the names in the table ``kind`` of `Known`."""

    def check(value: str, info: ValidationInfo) -> str:
        valid = getattr(context(info), kind)
        if value not in valid:
            raise ValueError(f"unknown name {quoted(value)}; {nearest(value, valid)}")
        return value

    return AfterValidator(check)


def _paths(value: Any) -> Path | list[Path]:
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str | Path) for path in paths):
        raise ValueError(f"must be a path or a list of paths, got {quoted(value)}")
    absolute = [absolute_path(path) for path in paths]
    return absolute if isinstance(value, list) else absolute[0]


AbsolutePath = Annotated[Path, Field(strict=False), AfterValidator(absolute_path)]
Paths = Annotated[Path | list[Path], PlainValidator(_paths)]  # a file, a folder, a glob, or several of them
MethodName = Annotated[str, known("methods")]


def _once(values: list[Any]) -> list[Any]:
    if twice := sorted(str(value) for value, count in Counter(values).items() if count > 1):
        raise ValueError(f"listed twice: {shortened(', '.join(twice), 2 * _LONGEST_WORD)}")
    return values


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


Once = AfterValidator(_once)
Whole = Annotated[int, BeforeValidator(_whole)]  # which may be written as 1e3
Count = Annotated[Whole, Field(le=MOST)]


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys; docstrings of the fields become their descriptions.

    Values are strict: a number is finite, no text and no truth value. Types that YAML does not have, such as a tuple or
    a path, need ``Annotated[..., Field(strict=False)]``.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def home() -> Path:
    """The folder that relative outputs are resolved against.

    ``$PIPELINE_HOME`` if set, else the working directory; that of a Ray job is a copy which Ray throws away, so there
    ``~/pipeline-runs``.
    """
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    try:
        return absolute_path(os.environ.get("PIPELINE_HOME", "~/pipeline-runs" if in_job else ""))
    except ValueError as error:
        raise ConfigError(f"PIPELINE_HOME: {error}") from error


def ray_address() -> str | None:
    """The Ray cluster of ``$RAY_ADDRESS``, None where this machine is to do without one."""
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return None if address in ("", "local") else address


def nested_section(field: FieldInfo) -> type[Section] | None:
    """The group of settings that a field holds, alone, optional or by name; None for a plain value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def strictly(adapter: TypeAdapter[Any], value: Any) -> Any:
    """``value``, of plain values, as the adapter takes it: a number is no text and no truth value, but 1e3 is whole.

    Raises ValidationError.
    """
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        if (whole := _whole(value)) is value:
            raise
        return adapter.validate_json(json.dumps(whole), strict=True)


def unfit_value(problem: ErrorDetails) -> str:
    """What pydantic says of a value, and the value."""
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {quoted(problem['input'])}"


def method_settings(method: str, given: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    """``given`` over the defaults of ``method``, checked; raises ValueError."""
    hints = get_type_hints(type(defaults)) if defaults is not None else {}
    values = {}
    for key, value in given.items():
        where = f"settings.{method}.{shortened(key, _LONGEST_WORD)}"
        if key not in hints:
            raise ValueError(f"{where}: unknown key; {nearest(key, hints) if hints else 'this method has no settings'}")
        try:
            values[key] = strictly(TypeAdapter(hints[key], config=ConfigDict(allow_inf_nan=False)), value)
        except ValidationError as error:
            raise ValueError(f"{where}: {unfit_value(error.errors()[0])}") from error
    if defaults is None:
        return {}
    try:
        return dataclasses.asdict(dataclasses.replace(defaults, **values))
    except ValueError as error:
        raise ValueError(f"settings.{method}: {error}") from error
