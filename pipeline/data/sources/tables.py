"""What sources that read tables share: which files there are, and what their column of labels says."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import nearest
from pipeline.data.sources.base import moved, unread_note
from pipeline.errors import DataError, first_line


@dataclass(frozen=True)
class LabelColumn:
    """The labels of a file: ``column`` of the table ``path``, which has this ``schema`` and belongs to ``setting``."""

    path: Path
    column: str
    setting: str
    schema: pa.Schema
    read: Callable[[], pa.ChunkedArray]


def table_files(paths: Sequence[Path], setting: str, suffixes: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """The files with these suffixes, and notes on what else is in the folders. Raises DataError."""
    files: list[Path] = []
    unread: list[tuple[str, str]] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        try:
            entries = sorted(path.iterdir())
        except OSError as error:
            raise DataError(
                f"data.{setting}: {path} cannot be read ({error.strerror}); check its permissions"
            ) from error
        for entry in entries:
            if entry.is_file() and entry.suffix.lower() in suffixes and not entry.name.startswith("."):
                files.append(entry)
            elif not entry.name.startswith("."):
                unread.append((str(entry), "folder" if entry.is_dir() else entry.suffix or "without extension"))
    if not files:
        shown = ", ".join(map(str, paths))
        raise DataError(
            f"data.{setting}: no {', '.join(suffixes)} files in {shown}; name such a file or a folder of them"
        )
    return files, list(unread_note(setting, unread, "entries of the folder are not read"))


@contextlib.contextmanager
def reading(path: Path, setting: str, form: str) -> Iterator[None]:
    """Raises DataError for what goes wrong in the block, where ``path`` is read as a file of this form."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = first_line(error)
        raise DataError(f"data.{setting}: {path} cannot be read as a {form} file ({reason}); replace it") from error


def numbered(
    labels: LabelColumn, names: Sequence[str] | None
) -> tuple[npt.NDArray[np.int64] | None, Mapping[str, int] | None]:
    """The class numbers of a file, None where some are missing; and the number of each class if labels are names.

    ``names`` are those of the training set. Raises DataError for a class that it does not have.
    """
    values = labels.read()
    if not holds_names(values.type):
        return (None if values.null_count else values.cast(pa.int64()).to_numpy()), None
    if names is None:
        raise DataError(
            f"data.{labels.setting}: column '{labels.column}' of {labels.path} holds names, but the classes of the "
            "training set are numbers; write the same numbers"
        )
    values = values.cast(pa.string())
    found = pc.index_in(values, value_set=pa.array(names, pa.string())).fill_null(-1).to_numpy()
    for row in np.flatnonzero(found < 0).tolist():
        if (name := values[row].as_py()) is not None:
            raise DataError(
                f"data.{labels.setting}: '{name}' in row {row} of {labels.path} is a class that the training set does "
                f"not have; {nearest(name, names)}"
            )
    numbers = {name: number for number, name in enumerate(names)}
    return (None if values.null_count else found.astype(np.int64)), numbers


def check_column(
    path: Path, schema: pa.Schema, setting: str, key: str, column: str, fits: Callable[[pa.DataType], bool], needed: str
) -> None:
    """Raises DataError unless a table has one column of this name, of a type that ``fits``; ``data.KEY`` names it."""
    candidates = [field.name for field in schema if fits(field.type)]
    if column not in schema.names:
        hint = nearest(column, candidates or schema.names)
        raise DataError(f"data.{setting}: {path} has no column '{column}'; set data.{key}, {hint}")
    if (count := schema.names.count(column)) > 1:
        raise DataError(f"data.{setting}: {path} has {count} columns '{column}'; name each column once")
    if column not in candidates:
        raise DataError(
            f"data.{setting}: column '{column}' of {path} is {schema.field(column).type}; data.{key} must name a "
            f"column of {needed}"
        )


def holds_classes(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold labels."""
    return bool(pa.types.is_integer(kind)) or holds_names(kind)


def holds_names(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(text) or pa.types.is_large_string(text) or pa.types.is_string_view(text))


def class_names(files: Sequence[LabelColumn]) -> tuple[str, ...] | None:
    """The names of the classes of a training set: of its metadata, or of its labels in order; None for numbers."""
    of_files = [names for file in files if (names := _names_in_metadata(file)) is not None]
    if of_files:
        return of_files[0]
    named = [file.path for file in files if holds_names(file.schema.field(file.column).type)]
    if not named:
        return None
    if len(named) < len(files):
        other = next(file.path for file in files if file.path not in named)
        raise DataError(f"data.train: labels are names in {named[0]}, but numbers in {other}; write the same in both")
    distinct: set[str] = set()
    for file in files:
        distinct |= {name for name in file.read().cast(pa.string()).unique().to_pylist() if name is not None}
    return tuple(sorted(distinct))


def _names_in_metadata(file: LabelColumn) -> tuple[str, ...] | None:
    """The class names that Hugging Face's datasets library keeps in the metadata."""
    try:
        features = json.loads((file.schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[file.column]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def check_same_classes(files: Sequence[LabelColumn], names: Sequence[str] | None) -> None:
    """Raises DataError where the metadata of a file number the classes otherwise than ``names``."""
    for file in files:
        own = _names_in_metadata(file)
        if own is None:
            continue
        if twice := sorted(name for name, count in Counter(own).items() if count > 1):
            raise DataError(
                f"data.{file.setting}: {file.path} has the class name '{twice[0]}' twice; name each class once"
            )
        if names is not None and (found := moved(own, names)) is not None:
            raise DataError(
                f"data.{file.setting}: {found.name!r} is class {found.number} in {file.path}, but class {found.there} "
                "of the training set; number the classes as there"
            )
