"""Parquet files with a column of encoded images (JPEG, PNG, ...) and one of classes: numbers from 0, or names.

The images may also be structs with a field ``bytes``, as Hugging Face writes them; class names in its metadata are
used. Rows are counted over the files in their order, in a folder by name. Names are numbered in their own order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import DataConfig
from pipeline.data.sources.base import CHUNK_SIZE, Chunk, RawExample, RawExamples, Source, located
from pipeline.data.sources.tables import (
    LabelColumn,
    check_column,
    check_same_classes,
    class_names,
    holds_classes,
    numbered,
    reading,
    table_files,
)
from pipeline.errors import DataError

_READ_ROWS = 100  # encoded images held at a time
_SUFFIXES = (".parquet",)


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
    stats = [(file, file.stat()) for file in table_files(paths, setting, _SUFFIXES)[0]]
    lines = [f"{setting} {file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats]
    return "\n".join([f"{setting} {columns.image} {columns.label}", *lines])


def _open(data: DataConfig) -> RawExamples:
    columns = columns_of(data)
    train, train_notes = table_files(located(data.train, "train"), "train", _SUFFIXES)
    test, test_notes = table_files(located(data.test, "test"), "test", _SUFFIXES)
    for setting, files in (("train", train), ("test", test)):
        _check_columns(files, columns, setting)
    names = class_names([_label_column(path, columns, "train") for path in train])
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
    files, notes = table_files(paths, setting, _SUFFIXES)
    _check_columns(files, columns, setting)
    return _chunks(files, columns, names, setting), notes


def _chunks(files: Sequence[Path], columns: _Columns, names: Sequence[str] | None, setting: str) -> list[Chunk]:
    label_columns = [_label_column(path, columns, setting) for path in files]
    check_same_classes(label_columns, names)
    chunks, start = [], 0
    for path, column in zip(files, label_columns, strict=True):
        with reading(path, setting, "Parquet"):
            metadata = pq.read_metadata(path)
        labels, numbers = numbered(column, names)
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


def _label_column(path: Path, columns: _Columns, setting: str) -> LabelColumn:
    def read() -> pa.ChunkedArray:
        with reading(path, setting, "Parquet"), pq.ParquetFile(path) as file:
            return file.read(columns=[columns.label])[columns.label]

    with reading(path, setting, "Parquet"):
        return LabelColumn(path, columns.label, setting, pq.read_schema(path), read)


def _check_columns(files: Sequence[Path], columns: _Columns, setting: str) -> None:
    for path in files:
        with reading(path, setting, "Parquet"):
            schema = pq.read_schema(path)
        for column, key, fits, needed in (
            (columns.image, "image_column", _holds_images, "encoded images (bytes of JPEG, PNG, ... files)"),
            (columns.label, "label_column", holds_classes, "class numbers from 0, or names"),
        ):
            check_column(path, schema, setting, key, column, fits, needed)


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


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
