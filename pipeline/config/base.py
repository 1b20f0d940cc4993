"""What all sections of the settings are made of: their base, the names that they may take, hints for misspelt ones."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, get_args, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError, ValidationInfo
from pydantic.fields import FieldInfo

from pipeline.records import Hyperparameters

if TYPE_CHECKING:
    from pipeline.config.sections import Config
    from pipeline.config.spaces import Space


@dataclasses.dataclass(frozen=True)
class Known:
    """The names that settings may take, handed in by the caller so that each table has one home.

    ``sources`` maps a data source to the settings it needs, ``methods`` a soup method to its default settings (a frozen
    dataclass, or None), ``trainers`` a training function to the hyperparameters that it takes.
    """

    sources: Mapping[str, Collection[str]]
    backbones: Collection[str]
    spaces: Mapping[str, Space]
    trainers: Mapping[str, type[Hyperparameters]]
    methods: Mapping[str, Any]
    studies: Mapping[str, HasSettings]


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
    """A hint for a misspelt ``word``: the nearest of ``valid``, or all of them."""
    close = difflib.get_close_matches(word, list(valid), n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(valid)}"


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
            raise ValueError(f"unknown name '{value}'; {nearest(value, valid)}")
        return value

    return AfterValidator(check)


AbsolutePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.abspath(path.expanduser())))]  # noqa: PTH100 (keeps symlinks)
MethodName = Annotated[str, known("methods")]


def _once(values: list[Any]) -> list[Any]:
    if twice := sorted({str(value) for value in values if values.count(value) > 1}):
        raise ValueError(f"listed twice: {', '.join(twice)}")
    return values


Once = AfterValidator(_once)


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys; docstrings of the fields become their descriptions."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def home() -> Path:
    """The folder that relative outputs are resolved against.

    ``$PIPELINE_HOME`` if set, else the working directory; that of a Ray job is a copy which Ray throws away, so there
    ``~/pipeline-runs``.
    """
    if "PIPELINE_HOME" in os.environ:
        return Path(os.environ["PIPELINE_HOME"]).expanduser().absolute()
    return Path.home() / "pipeline-runs" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else Path.cwd()


def nested_section(field: FieldInfo) -> type[Section] | None:
    """The group of settings that a field holds, alone, optional or by name; None for a plain value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def method_settings(method: str, given: Mapping[str, Any], defaults: Any) -> dict[str, Any]:
    """``given`` over the defaults of ``method``, checked; raises ValueError."""
    hints = get_type_hints(type(defaults)) if defaults is not None else {}
    values = {}
    for key, value in given.items():
        where = f"settings.{method}.{key}"
        if key not in hints:
            raise ValueError(f"{where}: unknown key; {nearest(key, hints) if hints else 'this method has no settings'}")
        try:
            values[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{where}: {error.errors()[0]['msg']}, got {value!r}") from error
    if defaults is None:
        return {}
    try:
        return dataclasses.asdict(dataclasses.replace(defaults, **values))
    except ValueError as error:
        raise ValueError(f"settings.{method}: {error}") from error
