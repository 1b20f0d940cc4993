"""Records as Parquet tables, for this program and others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.errors import DataError, first_line
from pipeline.files import replacing
from pipeline.records.types import Record

R = TypeVar("R", bound=Record)

_SCALARS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def write_table(path: Path, rows: Sequence[R], kind: type[R]) -> None:
    """Write ``rows`` to the Parquet file ``path``, a column per field of ``kind``, replacing what was there at once.

    What rows have besides (accuracies on shifts, hyperparameters of a trainer's own) follows as columns of their own.
    Of the ``extra_columns`` of ``kind`` those that no row has a value in are left out: hyperparameters that mean
    nothing for this kind of input.

    The types of the columns come from ``kind``, so that a table without rows or with nothing but None in a column keeps
    them. Missing folders are made. Raises TypeError for a row of another kind or a field that fits no column.
    """
    strangers = [type(row).__name__ for row in rows if type(row) is not kind]
    if strangers:
        raise TypeError(f"{path}: a table of {kind.__name__} cannot hold {strangers[0]}")
    values = [row.model_dump() for row in rows]
    schema = _schema(kind)
    own = dict.fromkeys(name for row in values for name in row if name not in schema.names)
    unused = {name for name in kind.extra_columns if values and all(row.get(name) is None for row in values)}
    columns = pa.schema(
        [
            *(column for column in schema if column.name not in unused),
            *(pa.field(name, _type_of([row.get(name) for row in values])) for name in own),
        ]
    )
    table = pa.Table.from_pylist(values, schema=columns)
    with replacing(path) as partial:
        pq.write_table(table, partial)


def read_table(path: Path, kind: type[R]) -> list[R]:
    """The rows that `write_table` wrote, in order; raises DataError for a file that is missing or of another form."""
    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read as a table of {kind.__name__} ({first_line(error)})") from error
    try:
        return [kind.model_validate(row) for row in rows]
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise DataError(f"{path}: is no table of {kind.__name__}: {where}: {problem['msg']}") from error


def _schema(kind: type[Record]) -> pa.Schema:
    fields = {name: field.annotation for name, field in kind.model_fields.items()}
    return pa.schema(
        [
            *(_column(name, annotation) for name, annotation in fields.items()),
            *(_column(name, annotation | None) for name, annotation in kind.extra_columns.items()),
        ]
    )


def _type_of(values: Sequence[Any]) -> pa.DataType:
    """Of a column that no kind of record knows: as wide as its values ask for, text where nothing is known."""
    kinds = {type(value) for value in values if value is not None}
    widest = next((kind for kind in (str, float, int, bool) if kind in kinds), str)
    return _SCALARS[widest]


def _column(name: str, annotation: Any) -> pa.Field:
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = {
        scalar
        for part in parts
        if part is not NoneType
        for scalar in ({type(value) for value in get_args(part)} if get_origin(part) is Literal else {part})
    }
    if len(kinds) != 1 or not kinds <= _SCALARS.keys():
        raise TypeError(f"field '{name}' of type {annotation} fits no column")
    return pa.field(name, _SCALARS[kinds.pop()], nullable=NoneType in parts)
