"""Encode the examples of a source once, as models take them, through ray.data, into a store that all runs share."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import DataConfig
from pipeline.data.kinds import Encoder, Form, Kind, kind_of
from pipeline.data.quiet import quiet_ray_data
from pipeline.data.sources import SOURCES, Chunk, RawExample, RawExamples
from pipeline.data.store import MARKER, TEST, TRAIN, Indices, Prepared, column_of, read_labels, schema, write_marker
from pipeline.errors import DataError
from pipeline.files import locked

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)

_FORMAT = 1  # part of the key of a store: raise it when stores change their form, or the arrays of all examples
_BLOCK_BYTES = 16 * 2**20  # of examples that a task hands on at a time
_NAMES_SHOWN = 3

Hashes: TypeAlias = npt.NDArray[np.uint64]  # of the array of each example; 64 bits are enough to tell millions apart


def prepare(data: DataConfig, check: Callable[[RawExamples], object] = lambda raw: None) -> Path:
    """The folder of the prepared examples of ``data``, made now unless it is there; see `pipeline.data.store`.

    A finished store is recognised by its key (source, identity of its files, what its kind needs to know) within
    milliseconds and without Ray. Otherwise ``check`` is called with what the source lists before anything is encoded.
    Ray must be initialised then, with CPUs to spare, and all its nodes must see the paths of the source; only this
    process writes the store. Processes that prepare the same data wait for the first of them. Raises DataError, and
    then leaves no store behind.
    """
    source = SOURCES[data.source]

    def open_checked() -> RawExamples:
        raw = source.open(data)
        check(raw)
        return raw

    name = f"source '{data.source}'"
    return _prepared(data, data.source, name, lambda: source.identity(data), open_checked, encoded=source.encoded)


def prepare_shift(data: DataConfig, name: str, folder_names: Sequence[str] | None) -> Path:
    """As `prepare`, of the set ``data.shifts[name]`` alone, which is the test set of its store.

    ``folder_names`` are those of the classes in label order, by which the folders of this set are labelled.
    """
    shift = kind_of(data).shift(data, name, folder_names)
    return _prepared(data, f"shift-{name}", f"shift '{name}'", shift.identity, shift.open, encoded=True)


def _prepared(
    data: DataConfig,
    name: str,
    set_name: str,
    identity: Callable[[], str],
    open_raw: Callable[[], RawExamples],
    *,
    encoded: bool,
) -> Path:
    """The store with the key of ``identity``, made of the examples of ``open_raw`` unless it is there.

    ``set_name`` is what messages call them.
    """
    kind = kind_of(data)
    if data.store is None:
        raise DataError(f"data.store: is not set; name a folder for the prepared {kind.plural}")
    try:
        parts = [_FORMAT, name, kind.key(data), identity(), *([kind.version] if encoded else [])]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        store = data.store / f"{name}-{kind.form(data).shape[-1]}-{key}"
        # Asked again under the lock: a process that held it before us may have made the store.
        if not (store / MARKER).exists():
            data.store.mkdir(parents=True, exist_ok=True)
            with locked(store.with_name(f"{store.name}.lock")):
                if not (store / MARKER).exists():
                    _make(data, set_name, open_raw(), store)
    except OSError as error:
        reason = f"{error.filename or data.store}: {error.strerror or error}"
        raise DataError(f"data: {reason}; check the path, its permissions and the free space") from error
    return store


def _make(data: DataConfig, set_name: str, raw: RawExamples, store: Path) -> None:
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


def _write(data: DataConfig, set_name: str, raw: RawExamples, folder: Path) -> Prepared:
    kind = kind_of(data)
    notes = list(raw.notes)
    train = _write_set(raw.train, data, set_name, folder / TRAIN, notes) if raw.train else None
    test = _write_set(raw.test, data, set_name, folder / TEST, notes) if raw.test is not None else None
    num_train, num_test = (0 if hashes is None else len(hashes) for hashes in (train, test))
    logger.info("prepared %d %s of %s in %s", num_train + num_test, kind.plural, set_name, data.store)
    if train is not None:
        notes += _repeated(train, kind)
        if test is not None and raw.test is not None:
            notes += _shared(train, test, raw.test, kind)
    return Prepared(
        num_train=num_train,
        num_test=None if test is None else num_test,
        class_names=raw.class_names,
        folder_names=raw.folder_names,
        notes=tuple(notes),
        train_sha256=None if train is None else _digest(folder / TRAIN, train),
        test_sha256=None if test is None else _digest(folder / TEST, test),
    )


def _digest(path: Path, hashes: Hashes) -> str:
    """Of the labels in ``path`` and the hashes of the examples."""
    return hashlib.sha256(read_labels(path).astype("<i8").tobytes() + hashes.astype("<u8").tobytes()).hexdigest()


def _write_set(chunks: list[Chunk], data: DataConfig, set_name: str, path: Path, notes: list[str]) -> Hashes:
    """Encode ``chunks`` on the CPUs of the cluster, write ``path`` here; returns a hash of each example.

    Says in ``notes`` how much was cut off.
    """
    total = num_cut = amount_cut = 0
    errors: list[tuple[int, str]] = []
    indices: list[Indices] = []
    hashes: list[Hashes] = []
    kind = kind_of(data)
    columns = schema(kind.form(data))
    # Pixels hardly compress, and a dictionary of them is only slow.
    with pq.ParquetWriter(path, columns, compression="none", use_dictionary=False, write_statistics=False) as writer:
        for table in _encoded(chunks, data):
            total += len(table)
            unusable = table.filter(table["error"].is_valid())
            errors += zip(unusable["index"].to_pylist(), unusable["error"].to_pylist(), strict=True)
            if not errors:  # otherwise only the rest of the errors matters
                writer.write_table(table.select(columns.names).cast(columns))
                indices.append(table["index"].to_numpy())
                hashes.append(table["hash"].to_numpy())
                cut = table["cut"].to_numpy()
                num_cut, amount_cut = num_cut + int(np.count_nonzero(cut)), amount_cut + int(cut.sum())
    if errors:
        shown = "; ".join(text for _, text in sorted(errors)[:_NAMES_SHOWN])
        more = "" if len(errors) <= _NAMES_SHOWN else "; ..."
        raise DataError(
            f"{set_name}: {len(errors)} of {total} {kind.plural} cannot be used ({shown}{more}); replace or remove "
            f"them (what is read: {kind.accepted(data)})"
        )
    if total != (expected := sum(chunk.count for chunk in chunks)):
        raise DataError(f"{set_name}: {total} of {expected} {kind.plural} arrived; do not change files meanwhile")
    if num_cut:
        notes.append(
            f"data: {amount_cut} {kind.contents} of {num_cut} of {total} {kind.plural} in {path.name} are beyond "
            f"{kind.cut_by} and cut off"
        )
    ordered = np.empty(total, dtype=np.uint64)
    ordered[np.concatenate(indices)] = np.concatenate(hashes)
    return ordered


def _repeated(train: Hashes, kind: Kind) -> Iterator[str]:
    if repeats := len(train) - len(np.unique(train)):
        yield (
            f"data: {repeats} of {len(train)} training {kind.plural} are there twice, with the same {kind.contents}; "
            "where one is trained on and the other in validation, validation accuracies are too good"
        )


def _shared(train: Hashes, test: Hashes, chunks: Sequence[Chunk], kind: Kind) -> Iterator[str]:
    if len(shared := np.flatnonzero(np.isin(test, train))):
        names = ", ".join(_where(chunks, index) for index in shared[:_NAMES_SHOWN].tolist())
        more = ", ..." if len(shared) > _NAMES_SHOWN else ""
        yield (
            f"data: {len(shared)} of {len(test)} test {kind.plural} are in the training set too, with the same "
            f"{kind.contents} ({names}{more}); test accuracies are too good"
        )


def _where(chunks: Sequence[Chunk], index: int) -> str:
    """What the source calls an example of these chunks."""
    chunk = next(chunk for chunk in chunks if chunk.start <= index < chunk.start + chunk.count)
    return next(itertools.islice(chunk.read(), index - chunk.start, None)).where


def _encoded(chunks: list[Chunk], data: DataConfig) -> Iterator[pa.Table]:
    """Tables of `schema` and columns ``error``, ``hash`` and ``cut``, in no particular order, while the tasks run."""
    import ray
    from ray.exceptions import RayTaskError

    if not ray.is_initialized():
        raise RuntimeError("data have to be prepared: call ray.init() first")
    quiet_ray_data()
    encode = kind_of(data).encoder(data)  # made here: the nodes need not have the files that it is made from
    # A block per chunk, so a task per chunk: `_encode_chunks` gets a batch of one row, the pickled chunk, and yields
    # tables of at most _BLOCK_BYTES, which come here while it goes on.
    pickled = [pickle.dumps(chunk) for chunk in chunks]
    try:
        dataset: Dataset = ray.data.from_items(pickled, override_num_blocks=len(chunks)).map_batches(
            _encode_chunks, fn_args=(data, encode), batch_size=1, zero_copy_batch=True
        )
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except RayTaskError as error:
        if not isinstance(error.cause, OSError | pa.ArrowException):
            raise
        raise DataError(
            f"a Ray task could not read the {kind_of(data).plural} ({error.cause}); every node must see them under the "
            "same path"
        ) from error


def _encode_chunks(batch: dict[str, np.ndarray], data: DataConfig, encode: Encoder) -> Iterator[pa.Table]:
    kind = kind_of(data)
    form = kind.form(data)
    block_size = max(1, _BLOCK_BYTES // form.nbytes)
    for pickled in batch["item"]:
        chunk: Chunk = pickle.loads(pickled)  # noqa: S301 (by `_encoded`; Arrow has no column for such objects)
        examples = iter(chunk.read())
        start = chunk.start
        while block := list(itertools.islice(examples, block_size)):
            yield _encode_block(block, start, kind, form, encode)
            start += len(block)


def _encode_block(block: list[RawExample], start: int, kind: Kind, form: Form, encode: Encoder) -> pa.Table:
    """A table of `schema`, ``error``, a ``hash`` of the array, and how much of the value was ``cut`` off.

    Where ``error`` says why an example cannot be used, its label and array are 0.
    """
    examples = np.zeros((len(block), *form.shape), dtype=form.dtype)
    labels = np.zeros(len(block), dtype=np.int64)
    cut = np.zeros(len(block), dtype=np.int64)
    errors: list[str | None] = [None] * len(block)
    for row, raw in enumerate(block):
        try:
            if raw.value is None:
                raise ValueError(f"no {kind.singular}")
            if raw.label is None:
                raise ValueError("no label")
            examples[row], cut[row] = encode(raw.value)
            labels[row] = raw.label
        except Exception as error:  # an exception here would end the whole execution; the driver raises one for all
            errors[row] = f"{raw.where}: {str(error).partition(' <')[0]}"
    return pa.table(
        {
            "index": np.arange(start, start + len(block)),
            "label": labels,
            form.column: column_of(examples),
            "error": pa.array(errors, type=pa.string()),
            "hash": np.array([_hash(example) for example in examples], dtype=np.uint64),
            "cut": cut,
        }
    )


def _hash(example: npt.NDArray[Any]) -> int:
    return int.from_bytes(hashlib.blake2b(example.tobytes(), digest_size=8).digest(), "little")
