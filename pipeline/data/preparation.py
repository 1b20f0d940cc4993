"""Decode and resize the images of a source once, through ray.data, into a store that all runs share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import DataConfig
from pipeline.data.decode import decode
from pipeline.data.quiet import quiet_ray_data
from pipeline.data.sources import SOURCES, Chunk, RawImage, RawImages, image_folder, parquet
from pipeline.data.sources.base import required
from pipeline.data.store import MARKER, TEST, TRAIN, Prepared, image_column, schema, write_marker
from pipeline.errors import DataError

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)

_FORMAT = 1  # part of the key of a store: raise it when stores change their form or their pixels
_BLOCK_BYTES = 16 * 2**20  # pixels that a task hands on at a time
_ERRORS_SHOWN = 3


def prepare(data: DataConfig) -> Path:
    """The folder of the prepared images of ``data``, made now unless it is there; see `pipeline.data.store`.

    A finished store is recognised by its key (source, identity of its files, image size) within milliseconds and
    without Ray. Otherwise Ray must be initialised, with CPUs to spare, and all its nodes must see the paths of the
    source; only this process writes the store. Processes that prepare the same images wait for the first of them.
    Raises DataError, and then leaves no store behind.
    """
    source = SOURCES[data.source]
    return _prepared(
        data, data.source, f"source '{data.source}'", lambda: source.identity(data), lambda: source.open(data)
    )


def prepare_shift(data: DataConfig, name: str, folder_names: Sequence[str] | None) -> Path:
    """As `prepare`, of the set ``data.shifts[name]`` alone, which is the test set of its store.

    ``folder_names`` are those of the classes in label order, by which the folders of this set are labelled.
    """
    setting = f"shifts.{name}"
    path = required(data.shifts[name], setting)
    if path.is_file() or any(path.glob("*.parquet")):
        return _prepared(
            data,
            f"shift-{name}",
            f"shift '{name}'",
            lambda: parquet.identity(path, setting),
            lambda: RawImages([], parquet.chunks(path, setting), None),
        )
    if folder_names is None:
        raise DataError(
            f"data.{setting}: {path} holds no .parquet files, and the training set has no names by which its folders "
            "could be labelled; give Parquet files"
        )
    names = tuple(folder_names)
    return _prepared(
        data,
        f"shift-{name}",
        f"shift '{name}'",
        lambda: "\n".join([image_folder.identity(path, setting), *names]),
        lambda: RawImages([], image_folder.chunks(path, names, setting), names),
    )


def _prepared(
    data: DataConfig, kind: str, set_name: str, identity: Callable[[], str], open_raw: Callable[[], RawImages]
) -> Path:
    """The store with the key of ``identity``, made of the images of ``open_raw`` unless it is there.

    ``set_name`` is what messages call the images.
    """
    if data.store is None:
        raise DataError("data.store: is not set; name a folder for the prepared images")
    try:
        key = hashlib.sha256(json.dumps([_FORMAT, kind, data.image_size, identity()]).encode()).hexdigest()[:16]
        store = data.store / f"{kind}-{data.image_size}-{key}"
        # Asked again under the lock: a process that held it before us may have made the store.
        if not (store / MARKER).exists():
            data.store.mkdir(parents=True, exist_ok=True)
            with _lock(store.with_name(f"{store.name}.lock")):
                if not (store / MARKER).exists():
                    _make(data, set_name, open_raw(), store)
    except OSError as error:
        reason = f"{error.filename or data.store}: {error.strerror or error}"
        raise DataError(f"data: {reason}; check the path, its permissions and the free space") from error
    return store


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    # The system gives the lock back when its holder dies.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(data: DataConfig, set_name: str, raw: RawImages, store: Path) -> None:
    partial = store.with_name(f"{store.name}.partial")
    # Folders of these names were left by a process that died: the lock is ours, the marker is missing.
    for leftover in (partial, store):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        write_marker(partial, _write(data, set_name, raw, partial))
        partial.replace(store)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(data: DataConfig, set_name: str, raw: RawImages, folder: Path) -> Prepared:
    num_train = _write_set(raw.train, data, set_name, folder / TRAIN) if raw.train else 0
    num_test = None if raw.test is None else _write_set(raw.test, data, set_name, folder / TEST)
    logger.info("prepared %d images of %s in %s", num_train + (num_test or 0), set_name, data.store)
    return Prepared(num_train, num_test, raw.class_names, raw.folder_names)


def _write_set(chunks: list[Chunk], data: DataConfig, set_name: str, path: Path) -> int:
    """Decode ``chunks`` on the CPUs of the cluster, write ``path`` here; returns the number of images."""
    total = 0
    errors: list[tuple[int, str]] = []
    columns = schema(data.image_size)
    # Pixels hardly compress, and a dictionary of them is only slow.
    with pq.ParquetWriter(path, columns, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for table in _decoded(chunks, data.image_size):
            total += len(table)
            unusable = table.filter(table["error"].is_valid())
            errors += zip(unusable["index"].to_pylist(), unusable["error"].to_pylist(), strict=True)
            if not errors:  # otherwise only the rest of the errors matters
                writer.write_table(table.select(columns.names).cast(columns))
    if errors:
        shown = "; ".join(text for _, text in sorted(errors)[:_ERRORS_SHOWN])
        more = "" if len(errors) <= _ERRORS_SHOWN else "; ..."
        raise DataError(
            f"{set_name}: {len(errors)} of {total} images cannot be used ({shown}{more}); replace or remove them"
        )
    if total != (expected := sum(chunk.count for chunk in chunks)):
        raise DataError(f"{set_name}: {total} of {expected} images arrived; do not change files meanwhile")
    return total


def _decoded(chunks: list[Chunk], image_size: int) -> Iterator[pa.Table]:
    """Tables of `schema` and a column ``error``, in no particular order, while the tasks run."""
    import ray
    from ray.exceptions import RayTaskError

    if not ray.is_initialized():
        raise RuntimeError("images have to be prepared: call ray.init() first")
    quiet_ray_data()
    # A block per chunk, so a task per chunk: `_decode_chunks` gets a batch of one row, the pickled chunk, and yields
    # tables of at most _BLOCK_BYTES, which come here while it goes on.
    pickled = [pickle.dumps(chunk) for chunk in chunks]
    try:
        dataset: Dataset = ray.data.from_items(pickled, override_num_blocks=len(chunks)).map_batches(
            _decode_chunks, fn_kwargs={"image_size": image_size}, batch_size=1, zero_copy_batch=True
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except RayTaskError as error:
        if not isinstance(error.cause, OSError | pa.ArrowException):
            raise
        raise DataError(
            f"a Ray task could not read the images ({error.cause}); every node must see them under the same path"
        ) from error


def _decode_chunks(batch: dict[str, np.ndarray], image_size: int) -> Iterator[pa.Table]:
    block_size = max(1, _BLOCK_BYTES // (3 * image_size**2))
    for pickled in batch["item"]:
        chunk: Chunk = pickle.loads(pickled)  # noqa: S301 (by `_decoded`; Arrow has no column for such objects)
        images = iter(chunk.read())
        start = chunk.start
        while block := list(itertools.islice(images, block_size)):
            yield _decode_block(block, start, image_size)
            start += len(block)


def _decode_block(block: list[RawImage], start: int, image_size: int) -> pa.Table:
    """A table of `schema` and ``error``; where that says why an image cannot be used, its label and pixels are 0."""
    images = np.zeros((len(block), 3, image_size, image_size), dtype=np.uint8)
    labels = np.zeros(len(block), dtype=np.int64)
    errors: list[str | None] = [None] * len(block)
    for row, raw in enumerate(block):
        try:
            if raw.pixels is None:
                raise ValueError("no image")
            if raw.label is None:
                raise ValueError("no label")
            images[row] = decode(raw.pixels, image_size)
            labels[row] = raw.label
        except Exception as error:  # an exception here would end the whole execution; the driver raises one for all
            errors[row] = f"{raw.where}: {str(error).partition(' <')[0]}"
    return pa.table(
        {
            "index": np.arange(start, start + len(block)),
            "label": labels,
            "image": image_column(images),
            "error": pa.array(errors, type=pa.string()),
        }
    )
