"""Parquet files with a column of encoded images (JPEG, PNG, ...) and one of classes: numbers from 0, or names.

The images may also be structs with a field ``bytes``, as Hugging Face writes them; class names in its metadata are
used. Rows are counted over the files in their order, in a folder by name. Names are numbered in their own order.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import DataConfig, nearest
from pipeline.data.sources.base import CHUNK_SIZE, Chunk, RawExample, RawExamples, Source, located, moved, unread_note
from pipeline.errors import DataError

_READ_ROWS = 100  # encoded images held at a time
_SUFFIX = ".parquet"


@dataclass(frozen=True)
class _Columns:
    image: str
    label: str


def columns_of(data: DataConfig) -> _Columns:
    """The columns that the settings name."""
    return _Columns(data.image_column or "image", data.label_column or "label")


def _identity(data: DataConfig) -> str:
    columns = columns_of(data)
    return "\n".join(
        identity(located(paths, setting), setting, columns)
        for setting, paths in (("train", data.train), ("test", data.test))
    )


def identity(paths: Sequence[Path], setting: str, columns: _Columns) -> str:
    """Of one set; see `Source`."""
    stats = [(file, file.stat()) for file in _files(paths, setting)[0]]
    lines = [f"{setting} {file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats]
    return "\n".join([f"{setting} {columns.image} {columns.label}", *lines])


def _open(data: DataConfig) -> RawExamples:
    columns = columns_of(data)
    train, train_notes = _files(located(data.train, "train"), "train")
    test, test_notes = _files(located(data.test, "test"), "test")
    for setting, files in (("train", train), ("test", test)):
        _check_columns(files, columns, setting)
    names = _class_names(train, columns)
    chunks_of = {
        setting: _chunks(files, columns, names, setting) for setting, files in (("train", train), ("test", test))
    }
    return RawExamples(chunks_of["train"], chunks_of["test"], names, notes=(*train_notes, *test_notes))


def chunks(
    paths: Sequence[Path], columns: _Columns, names: Sequence[str] | None, setting: str
) -> tuple[list[Chunk], list[str]]:
    """The images of one set, without decoding them, where the classes are called ``names``; notes, see `RawExamples`.

    Raises DataError.
    """
    files, notes = _files(paths, setting)
    _check_columns(files, columns, setting)
    return _chunks(files, columns, names, setting), notes


def _files(paths: Sequence[Path], setting: str) -> tuple[list[Path], list[str]]:
    """The Parquet files, and notes on what else is in the folders."""
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
            if entry.is_file() and entry.suffix.lower() == _SUFFIX and not entry.name.startswith("."):
                files.append(entry)
            elif not entry.name.startswith("."):
                unread.append((str(entry), "folder" if entry.is_dir() else entry.suffix or "without extension"))
    if not files:
        shown = ", ".join(map(str, paths))
        raise DataError(f"data.{setting}: no {_SUFFIX} files in {shown}; name a Parquet file or a folder of them")
    return files, list(unread_note(setting, unread, "entries of the folder are not read"))


def _chunks(files: Sequence[Path], columns: _Columns, names: Sequence[str] | None, setting: str) -> list[Chunk]:
    _check_same_classes(files, columns, names, setting)
    chunks, start = [], 0
    for path in files:
        with _reading(path, setting):
            metadata = pq.read_metadata(path)
            labels, numbers = _labels(path, columns, names, setting)
        # A chunk stays within a row group, since row groups are what can be read without what is before them.
        group_start = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            for offset in range(0, rows, CHUNK_SIZE):
                count, row = min(CHUNK_SIZE, rows - offset), group_start + offset
                reader = _RowReader(path, columns, numbers, group, offset, count, row)
                chunks.append(Chunk(start, count, reader, None if labels is None else labels[row : row + count]))
                start += count
            group_start += rows
    if not chunks:
        raise DataError(f"data.{setting}: {files[0]} has no rows; name a file with images")
    return chunks


@contextlib.contextmanager
def _reading(path: Path, setting: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"data.{setting}: {path} cannot be read as a Parquet file ({reason}); replace it") from error


def _labels(
    path: Path, columns: _Columns, names: Sequence[str] | None, setting: str
) -> tuple[npt.NDArray[np.int64] | None, Mapping[str, int] | None]:
    """The labels of a file, None where some are missing; and the number of each class if labels are names."""
    with pq.ParquetFile(path) as file:
        labels = file.read(columns=[columns.label])[columns.label]
    if not _holds_names(labels.type):
        return (None if labels.null_count else labels.cast(pa.int64()).to_numpy()), None
    if names is None:
        raise DataError(
            f"data.{setting}: column '{columns.label}' of {path} holds names, but the classes of the training set are "
            "numbers; write the same numbers"
        )
    labels = labels.cast(pa.string())
    found = pc.index_in(labels, value_set=pa.array(names, pa.string())).fill_null(-1).to_numpy()
    for row in np.flatnonzero(found < 0).tolist():
        if (name := labels[row].as_py()) is not None:
            raise DataError(
                f"data.{setting}: '{name}' in row {row} of {path} is a class that the training set does not have; "
                f"{nearest(name, names)}"
            )
    numbers = {name: number for number, name in enumerate(names)}
    return (None if labels.null_count else found.astype(np.int64)), numbers


def _check_columns(files: Sequence[Path], columns: _Columns, setting: str) -> None:
    for path in files:
        with _reading(path, setting):
            schema = pq.read_schema(path)
        for column, key, fits, needed in (
            (columns.image, "image_column", _holds_images, "encoded images (bytes of JPEG, PNG, ... files)"),
            (columns.label, "label_column", _holds_classes, "class numbers from 0, or names"),
        ):
            candidates = [field.name for field in schema if fits(field.type)]
            if column not in schema.names:
                raise DataError(
                    f"data.{setting}: {path} has no column '{column}'; set data.{key}, "
                    f"{nearest(column, candidates or schema.names)}"
                )
            if column not in candidates:
                raise DataError(
                    f"data.{setting}: column '{column}' of {path} is {schema.field(column).type}; data.{key} must name "
                    f"a column of {needed}"
                )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _holds_classes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind)) or _holds_names(kind)


def _holds_names(kind: pa.DataType) -> bool:
    text = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(text) or pa.types.is_large_string(text) or pa.types.is_string_view(text))


def _class_names(files: Sequence[Path], columns: _Columns) -> tuple[str, ...] | None:
    """The names of the classes of a training set: of its metadata, or of its labels in order; None for numbers."""
    of_files = [names for path in files if (names := _names_in_metadata(path, columns)) is not None]
    if of_files:
        return of_files[0]
    schemas = {path: pq.read_schema(path).field(columns.label).type for path in files}
    named = [path for path, kind in schemas.items() if _holds_names(kind)]
    if not named:
        return None
    if len(named) < len(files):
        other = next(path for path in files if path not in named)
        raise DataError(f"data.train: labels are names in {named[0]}, but numbers in {other}; write the same in both")
    distinct: set[str] = set()
    for path in files:
        with _reading(path, "train"), pq.ParquetFile(path) as file:
            found = file.read(columns=[columns.label])[columns.label].cast(pa.string()).unique().to_pylist()
        distinct |= {name for name in found if name is not None}
    return tuple(sorted(distinct))


def _names_in_metadata(path: Path, columns: _Columns) -> tuple[str, ...] | None:
    """The class names that Hugging Face's datasets library keeps in the metadata."""
    try:
        features = json.loads((pq.read_schema(path).metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[columns.label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _check_same_classes(files: Sequence[Path], columns: _Columns, names: Sequence[str] | None, setting: str) -> None:
    for path in files:
        own = _names_in_metadata(path, columns)
        if own is None:
            continue
        if twice := sorted(name for name, count in Counter(own).items() if count > 1):
            raise DataError(f"data.{setting}: {path} has the class name '{twice[0]}' twice; name each class once")
        if names is not None and (found := moved(own, names)) is not None:
            raise DataError(
                f"data.{setting}: {found.name!r} is class {found.number} in {path}, but class {found.there} of the "
                "training set; number the classes as there"
            )


@dataclass(frozen=True)
class _RowReader:
    path: Path
    columns: _Columns
    numbers: Mapping[str, int] | None  # of the classes, where labels are names
    row_group: int
    offset: int  # first row within the row group
    count: int
    file_row: int  # first row within the file

    def __call__(self) -> Iterator[RawExample]:
        with pq.ParquetFile(self.path) as file:
            wanted = [self.columns.image, self.columns.label]
            batches = file.iter_batches(_READ_ROWS, row_groups=[self.row_group], columns=wanted)
            for row, pixels, value in self._rows(batches):
                if row >= self.offset + self.count:
                    break
                if row >= self.offset:
                    where = f"{self.path}, row {self.file_row + row - self.offset}"
                    label = value.as_py()
                    yield RawExample(pixels.as_py(), label if self.numbers is None else self.numbers.get(label), where)

    def _rows(self, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.Scalar, pa.Scalar]]:
        """Each row of a row group: its number there, its encoded image, its label."""
        row = 0
        for batch in batches:
            image = batch.column(self.columns.image)
            # flatten, unlike field, passes the nulls of a struct on to its fields
            encoded = image.flatten()[image.type.get_field_index("bytes")] if pa.types.is_struct(image.type) else image
            for pixels, label in zip(encoded, batch.column(self.columns.label), strict=True):
                yield row, pixels, label
                row += 1


PARQUET = Source(needs=("train", "test"), identity=_identity, open=_open)
