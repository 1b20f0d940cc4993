"""Tables of texts, Parquet, CSV or TSV: a column of texts, perhaps a second one, and one of classes.

Classes are numbers from 0, or names, as in the source `parquet`. A CSV or TSV file has the names of the columns in its
first line; quotes of a TSV file are part of its texts, as GLUE's are. Rows are counted over the files in their order,
in a folder by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from pipeline.config import DataConfig
from pipeline.data.sources.base import CHUNK_SIZE, Chunk, RawExample, RawExamples, Source, located
from pipeline.data.sources.tables import (
    LabelColumn,
    check_column,
    check_same_classes,
    class_names,
    holds_classes,
    holds_names,
    numbered,
    reading,
    table_files,
)
from pipeline.errors import DataError

_FORMS = {".parquet": "Parquet", ".csv": "CSV", ".tsv": "TSV"}
_SUFFIXES = tuple(_FORMS)


class _Table(NamedTuple):
    path: Path
    columns: pa.Table


def identity(data: DataConfig, paths: Sequence[Path], setting: str) -> str:
    """Of one set; see `Source`."""
    stats = [(file, file.stat()) for file in table_files(paths, setting, _SUFFIXES)[0]]
    lines = [f"{setting} {file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats]
    return "\n".join([f"{setting} {[*_text_columns(data).items()]} {_label(data)}", *lines])


def _identity(data: DataConfig) -> str:
    return "\n".join(
        identity(data, located(paths, setting), setting)
        for setting, paths in (("train", data.train), ("test", data.test))
    )


def _open(data: DataConfig) -> RawExamples:
    train, train_notes = _tables(data, located(data.train, "train"), "train")
    test, test_notes = _tables(data, located(data.test, "test"), "test")
    names = class_names([_labels(data, table, "train") for table in train])
    chunks_of = {
        setting: _chunks(data, tables, names, setting) for setting, tables in (("train", train), ("test", test))
    }
    return RawExamples(chunks_of["train"], chunks_of["test"], names, notes=(*train_notes, *test_notes))


def chunks(
    data: DataConfig, paths: Sequence[Path], names: Sequence[str] | None, setting: str
) -> tuple[list[Chunk], list[str]]:
    """The texts of one set, where the classes are called ``names``; notes, see `RawExamples`. Raises DataError."""
    tables, notes = _tables(data, paths, setting)
    return _chunks(data, tables, names, setting), notes


def _text_columns(data: DataConfig) -> dict[str, str]:
    """By setting the columns of texts: one, or two."""
    pair = {} if data.text_pair_column is None else {"text_pair_column": data.text_pair_column}
    return {"text_column": data.text_column or "text", **pair}


def _label(data: DataConfig) -> str:
    return data.label_column or "label"


def _tables(data: DataConfig, paths: Sequence[Path], setting: str) -> tuple[list[_Table], list[str]]:
    """The columns that the settings name, of all files, and notes on the files and on empty texts."""
    files, notes = table_files(paths, setting, _SUFFIXES)
    tables = [_Table(path, _read(data, path, setting)) for path in files]
    rows = sum(len(table.columns) for table in tables)
    if not rows:
        raise DataError(f"data.{setting}: {files[0]} has no rows; name a file with texts")
    for column in _text_columns(data).values():
        texts = [pc.utf8_trim_whitespace(table.columns[column].cast(pa.large_string())) for table in tables]
        if empty := sum(pc.sum(pc.equal(text, "")).as_py() or 0 for text in texts):
            if empty == rows:
                raise DataError(f"data.{setting}: all {rows} texts of column '{column}' are empty; name another column")
            notes.append(f"data.{setting}: {empty} of {rows} texts of column '{column}' are empty")
    return tables, notes


def _read(data: DataConfig, path: Path, setting: str) -> pa.Table:
    form = _FORMS.get(path.suffix.lower())
    if form is None:
        raise DataError(f"data.{setting}: {path} is no {', '.join(_SUFFIXES)} file; name one of these")
    wanted = {**_text_columns(data), "label_column": _label(data)}
    with reading(path, setting, form):
        if form == "Parquet":
            schema = pq.read_schema(path)
        else:
            table = _read_csv(path, list(_text_columns(data).values()))
            schema = table.schema
            if not len(table):  # of columns without a type
                raise DataError(f"data.{setting}: {path} has no rows; name a file with texts")
    for key, column in wanted.items():
        fits, needed = (
            (holds_classes, "class numbers from 0, or names") if key == "label_column" else (holds_names, "texts")
        )
        check_column(path, schema, setting, key, column, fits, needed)
    if form != "Parquet":
        return table.select(list(dict.fromkeys(wanted.values())))
    with reading(path, setting, form), pq.ParquetFile(path) as file:
        return file.read(columns=list(dict.fromkeys(wanted.values())))


def _read_csv(path: Path, text_columns: Sequence[str]) -> pa.Table:
    is_tsv = path.suffix.lower() == ".tsv"
    return pc_csv.read_csv(
        path,
        parse_options=pc_csv.ParseOptions(
            delimiter="\t" if is_tsv else ",", quote_char=False if is_tsv else '"', newlines_in_values=not is_tsv
        ),
        # A text of digits, or "null", is a text.
        convert_options=pc_csv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string())),
    )


def _labels(data: DataConfig, table: _Table, setting: str) -> LabelColumn:
    column = _label(data)
    return LabelColumn(table.path, column, setting, table.columns.schema, lambda: table.columns[column])


def _chunks(data: DataConfig, tables: Sequence[_Table], names: Sequence[str] | None, setting: str) -> list[Chunk]:
    check_same_classes([_labels(data, table, setting) for table in tables], names)
    chunks, start = [], 0
    for table in tables:
        labels, numbers = numbered(_labels(data, table, setting), names)
        columns = [table.columns[column].to_pylist() for column in _text_columns(data).values()]
        # (text,) or (text, pair), for each row; None where one is missing
        values = [None if None in row else row for row in zip(*columns, strict=True)]
        given = table.columns[_label(data)].to_pylist()
        own = given if numbers is None else [numbers.get(name) for name in given]
        for row in range(0, len(values), CHUNK_SIZE):
            part = slice(row, row + CHUNK_SIZE)
            reader = _RowReader(table.path, row, values[part], own[part])
            chunks.append(Chunk(start, len(values[part]), reader, None if labels is None else labels[part]))
            start += len(values[part])
    return chunks


@dataclass(frozen=True)
class _RowReader:
    path: Path
    row: int  # the first
    values: list[Any]
    labels: list[int | None]

    def __call__(self) -> Iterator[RawExample]:
        for row, (value, label) in enumerate(zip(self.values, self.labels, strict=True), self.row):
            yield RawExample(value, label, f"{self.path}, row {row}")


TEXT_TABLE = Source(needs=("train", "test"), identity=_identity, open=_open, encoded=False, kind="text")
