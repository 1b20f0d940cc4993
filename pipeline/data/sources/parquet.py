"""Parquet files with the columns ``image`` (encoded PNG or JPEG) and ``label`` (class numbers from 0).

``image`` may also be a struct with the field ``bytes``, as Hugging Face writes it; class names in its metadata
are used. ``train`` and ``test`` may be folders of such files; their rows are counted over the files in order of name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import DataConfig, nearest
from pipeline.data.sources.base import CHUNK_SIZE, Chunk, RawImage, RawImages, Source, required
from pipeline.errors import DataError

_READ_ROWS = 100  # encoded images held at a time


def _identity(data: DataConfig) -> str:
    return "\n".join(
        identity(required(path, name), name) for name, path in (("train", data.train), ("test", data.test))
    )


def identity(path: Path, setting: str) -> str:
    """Of one set; see `Source`."""
    stats = [(file, file.stat()) for file in _files(path, setting)]
    return "\n".join(f"{setting} {file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats)


def chunks(path: Path, setting: str) -> list[Chunk]:
    """The images of one set, without decoding them. Raises DataError."""
    return _chunks(_files(path, setting), setting)


def _open(data: DataConfig) -> RawImages:
    train = _files(required(data.train, "train"), "train")
    test = _files(required(data.test, "test"), "test")
    return RawImages(_chunks(train, "train"), _chunks(test, "test"), _class_names(pq.read_schema(train[0])))


def _files(path: Path, setting: str) -> list[Path]:
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"data.{setting}: no .parquet files in {path}; name a Parquet file or a folder of them")
    return files


def _chunks(files: list[Path], setting: str) -> list[Chunk]:
    chunks, start = [], 0
    for path in files:
        try:
            metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowInvalid) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataError(
                f"data.{setting}: {path} cannot be read as a Parquet file ({reason}); replace it"
            ) from error
        _check_columns(path, metadata.schema.to_arrow_schema(), setting)
        # A chunk stays within a row group, since row groups are what can be read without what is before them.
        group_start = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            for offset in range(0, rows, CHUNK_SIZE):
                count = min(CHUNK_SIZE, rows - offset)
                chunks.append(Chunk(start, count, _RowReader(path, group, offset, count, group_start + offset)))
                start += count
            group_start += rows
    if not chunks:
        raise DataError(f"data.{setting}: {files[0]} has no rows; name a file with images")
    return chunks


def _check_columns(path: Path, schema: pa.Schema, setting: str) -> None:
    for column in ("image", "label"):
        if column not in schema.names:
            raise DataError(
                f"data.{setting}: {path} has no column '{column}'; rename one to that, {nearest(column, schema.names)}"
            )
    image, label = schema.field("image").type, schema.field("label").type
    encoded = image.field("bytes").type if pa.types.is_struct(image) and image.get_field_index("bytes") >= 0 else image
    if not (pa.types.is_binary(encoded) or pa.types.is_large_binary(encoded) or pa.types.is_binary_view(encoded)):
        raise DataError(f"data.{setting}: column 'image' of {path} is {image}; it must hold encoded PNG or JPEG bytes")
    if not pa.types.is_integer(label):
        raise DataError(f"data.{setting}: column 'label' of {path} is {label}; it must hold class numbers from 0")


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """The class names that Hugging Face's datasets library keeps in the metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class _RowReader:
    path: Path
    row_group: int
    offset: int  # first row within the row group
    count: int
    file_row: int  # first row within the file

    def __call__(self) -> Iterator[RawImage]:
        with pq.ParquetFile(self.path) as file:
            batches = file.iter_batches(_READ_ROWS, row_groups=[self.row_group], columns=["image", "label"])
            for row, pixels, label in _rows(batches):
                if row >= self.offset + self.count:
                    break
                if row >= self.offset:
                    where = f"{self.path}, row {self.file_row + row - self.offset}"
                    yield RawImage(pixels.as_py(), label.as_py(), where)


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.Scalar, pa.Scalar]]:
    """Each row of a row group: its number there, its encoded image, its label."""
    row = 0
    for batch in batches:
        image = batch.column("image")
        # flatten, unlike field, passes the nulls of a struct on to its fields
        encoded = image.flatten()[image.type.get_field_index("bytes")] if pa.types.is_struct(image.type) else image
        for pixels, label in zip(encoded, batch.column("label"), strict=True):
            yield row, pixels, label
            row += 1


PARQUET = Source(needs=("train", "test"), identity=_identity, open=_open)
