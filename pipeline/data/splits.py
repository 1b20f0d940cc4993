"""The splits of a run, cut from the prepared data by a seed.

``train`` fine-tunes, ``pretrain`` makes a small starting point. ``fit`` and ``select`` are the two parts of the
validation set: soups learn from ``fit`` only, the champion is chosen on ``select``. ``test`` is reported, never used;
so are the ``shifts``, other test sets of the same classes.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.data.examples import ExampleSet, Splits
from pipeline.data.kinds import kind_of
from pipeline.data.preparation import prepare, prepare_shift
from pipeline.data.sources import SOURCES, Chunk, RawExamples
from pipeline.data.sources.base import moved
from pipeline.data.store import TEST, TRAIN, Indices, read_labels, read_marker, read_rows
from pipeline.data.streaming import StreamedExamples
from pipeline.errors import DataError
from pipeline.metrics import METRICS
from pipeline.records import SplitRecord

logger = logging.getLogger(__name__)

_NAMES_SHOWN = 5
_NAMES = ("pretrain", "train", "fit", "select", "test")


def load_splits(data: DataConfig, seed: int, memory_bytes: float = math.inf) -> Splits:
    """Prepare the data if need be (see `prepare`), read the splits.

    Training examples that take more than ``memory_bytes`` (``data.memory_gib``, where it is set) are not read, but
    streamed from the store in every epoch. Which examples a split holds follows from ``seed``, the sizes and the
    number of examples. Those of a split are in random order, save those of a whole test set, which keep its order. What
    is odd about the data is logged. Raises DataError, if it can be told before anything is prepared.
    """
    said: set[str] = set()
    store = prepare(data, lambda raw: _check(data, seed, raw, said))  # before anything is encoded
    prepared = read_marker(store)
    labels = {"train": read_labels(store / TRAIN)}
    if prepared.num_test is not None:
        labels["test"] = read_labels(store / TEST)
    class_names = _class_names(data, prepared.class_names, prepared.folder_names, labels)
    _say([*prepared.notes, *_missing_classes(data, class_names, labels)], said)
    indices = cut(data, prepared.num_train, prepared.num_test, seed)
    if data.memory_gib is not None:
        memory_bytes = data.memory_gib * 2**30
    form = kind_of(data).form(data)
    streamed = len(indices["train"]) * form.nbytes > memory_bytes
    # All splits that lie in train.parquet are read in one pass over it, without a training set that is streamed.
    not_from_train = {"train"} if streamed else set()
    if prepared.num_test is not None:
        not_from_train.add("test")
    from_train = {name: rows for name, rows in indices.items() if name not in not_from_train}
    sets = dict(zip(from_train, read_rows(store / TRAIN, form, list(from_train.values())), strict=True))
    if prepared.num_test is not None:
        (sets["test"],) = read_rows(store / TEST, form, [indices["test"]])
    sets = {name: _with_lengths(data, examples) for name, examples in sets.items()}
    train = StreamedExamples(store / TRAIN, form, indices["train"]) if streamed else sets["train"]
    test_sha256 = prepared.train_sha256 if prepared.num_test is None else prepared.test_sha256
    records = [
        _record(name, indices[name], test_sha256 if name == "test" else prepared.train_sha256)
        for name in _NAMES
        if name in indices
    ]
    folders = prepared.folder_names or prepared.class_names or data.class_names
    shifts = {}
    for name in data.shifts:
        shifts[name], digest = _shift(data, name, folders, len(class_names))
        records.append(_record(name, np.arange(len(shifts[name])), digest))
    return Splits(
        sets.get("pretrain"),
        train,
        sets["fit"],
        sets["select"],
        sets["test"],
        class_names,
        tuple(records),
        shifts,
        metric=data.metric,
        kind=SOURCES[data.source].kind,
    )


def split_sizes(data: DataConfig, seed: int) -> dict[str, int]:
    """How many examples each split will have, and what is odd about them, from the lists of the source alone.

    Nothing is encoded or written, and Ray is not needed. Raises DataError.
    """
    return _check(data, seed, SOURCES[data.source].open(data), set())


def _check(data: DataConfig, seed: int, raw: RawExamples, said: set[str]) -> dict[str, int]:
    """Everything that can be told from what a source lists: returns the sizes of the splits, or raises DataError."""
    chunks = {"train": raw.train, **({"test": raw.test} if raw.test is not None else {})}
    labels = {name: known for name, part in chunks.items() if (known := _known_labels(part)) is not None}
    if labels.keys() == chunks.keys():
        names = _class_names(data, raw.class_names, raw.folder_names, labels)
        _say([*raw.notes, *_missing_classes(data, names, labels)], said)
    rows = cut(data, _number(raw.train), None if raw.test is None else _number(raw.test), seed)
    return {name: len(rows[name]) for name in _NAMES if name in rows}


def _shift(
    data: DataConfig, name: str, folder_names: Sequence[str] | None, num_classes: int
) -> tuple[ExampleSet, str | None]:
    """Another test set, whole and in its own order, and its digest."""
    store = prepare_shift(data, name, folder_names)
    prepared = read_marker(store)
    _say(prepared.notes, set())
    (examples,) = read_rows(store / TEST, kind_of(data).form(data), [np.arange(prepared.num_test or 0)])
    _check_range(f"shifts.{name}", _shown(data.shifts[name]), examples.labels, num_classes)
    return _with_lengths(data, examples), prepared.test_sha256


def _with_lengths(data: DataConfig, examples: ExampleSet) -> ExampleSet:
    """The set with the lengths of its examples, where these differ."""
    lengths = kind_of(data).lengths
    return examples if lengths is None else replace(examples, lengths=lengths(examples.inputs))


def _number(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.count for chunk in chunks)


def _known_labels(chunks: Sequence[Chunk]) -> npt.NDArray[np.int64] | None:
    known = [chunk.labels for chunk in chunks if chunk.labels is not None]
    return np.concatenate(known) if known and len(known) == len(chunks) else None


def _say(notes: Iterable[str], said: set[str]) -> None:
    """Log those of ``notes`` that were not ``said``."""
    for note in notes:
        if note not in said:
            logger.warning("%s", note)
            said.add(note)


def _missing_classes(
    data: DataConfig, names: Sequence[str], labels: Mapping[str, npt.NDArray[np.int64]]
) -> Iterator[str]:
    for part, values in labels.items():
        present = np.bincount(values, minlength=len(names)) > 0
        missing = [name for name, there in zip(names, present, strict=True) if not there]
        if missing:
            what = f"{'training' if part == 'train' else part} {kind_of(data).plural}"
            yield f"data: no {what} of {len(missing)} of {len(names)} classes ({_listed(missing)})"


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_NAMES_SHOWN], *(["..."] if len(names) > _NAMES_SHOWN else [])])


def _shown(paths: Path | Sequence[Path]) -> str:
    return str(paths) if isinstance(paths, Path) else ", ".join(map(str, paths))


def cut(data: DataConfig, num_train: int, num_test: int | None, seed: int) -> dict[str, Indices]:
    """Source indices of each split of a source with ``num_train`` training examples (and ``num_test`` of a test set).

    Sizes in ``data`` that are fractions refer to the set that the split is cut from.
    """
    # The sizes first; then the training examples, in one random order, are dealt out in the order of `size_of_split`:
    # the first to `test` (where the source has none), then to `pretrain`, `select`, `fit` and last to `train`.
    plural = kind_of(data).plural
    order = np.random.default_rng([seed, 0]).permutation(num_train)
    size_of_split: dict[str, int] = {}
    if num_test is None:
        if data.test_size is None:
            raise DataError(
                f"data.test_size: source '{data.source}' has no test set; say how many {plural} to cut for it"
            )
        size_of_split["test"] = _count(data.test_size, num_train)
    if data.pretrain_size is not None:
        size_of_split["pretrain"] = _count(data.pretrain_size, num_train)
    validation = _count(data.validation_size, num_train)
    size_of_split["select"] = _count(data.select_fraction, validation)
    size_of_split["fit"] = validation - size_of_split["select"]
    remaining = num_train - sum(size_of_split.values())
    size_of_split["train"] = remaining if data.train_size is None else _count(data.train_size, num_train)
    sizes = ", ".join(f"{name} {size_of_split[name]}" for name in _NAMES if name in size_of_split)
    keys = ["test_size"] if num_test is None else []
    keys += [key for key in ("pretrain_size", "validation_size", "train_size") if getattr(data, key) is not None]
    to_lower = f"lower {' or '.join(f'data.{key} ({getattr(data, key)})' for key in keys)}"
    if remaining < size_of_split["train"] or remaining < 0:
        raise DataError(
            f"data: the splits ask for more than the {num_train} {plural} there are to cut from ({sizes}); {to_lower}"
        )
    # `train` is last: another train_size leaves the other splits as they are.
    indices: dict[str, Indices] = {}
    start = 0
    for name, size in size_of_split.items():
        indices[name] = order[start : start + size]
        start += size
    if num_test is not None:  # a test set of its own: all of it in its order, or a random part
        indices["test"] = np.arange(num_test)
        if data.test_size is not None and (limit := _count(data.test_size, num_test)) < num_test:
            indices["test"] = np.random.default_rng([seed, 1]).permutation(num_test)[:limit]
    remedies = {
        "pretrain": "raise data.pretrain_size",
        "train": to_lower,
        "fit": "raise data.validation_size or lower data.select_fraction",
        "select": "raise data.validation_size or data.select_fraction, or do without it: data.select_fraction 0",
        "test": "raise data.test_size",
    }
    may_be_empty = {"select"} if data.select_fraction == 0 else set()
    for name, rows in indices.items():
        if not len(rows) and name not in may_be_empty:
            raise DataError(f"data: split '{name}' is empty ({sizes} of {num_train} {plural}); {remedies[name]}")
    return indices


def _count(size: float, total: int) -> int:
    """A size in examples: an int is one already, a float is a fraction of ``total``."""
    return size if isinstance(size, int) else round(size * total)


def _record(name: str, rows: Indices, images_sha256: str | None) -> SplitRecord:
    # Sorted, little-endian int64: the digest is of the set of examples, on every machine.
    digest = hashlib.sha256(np.sort(rows).astype("<i8").tobytes()).hexdigest()
    return SplitRecord(name=name, size=len(rows), indices_sha256=digest, images_sha256=images_sha256)


def _class_names(
    data: DataConfig,
    names: Sequence[str] | None,
    folder_names: Sequence[str] | None,
    labels: Mapping[str, npt.NDArray[np.int64]],
) -> tuple[str, ...]:
    """Names of the classes, after a check that all labels are among them and the metric is defined for so many.

    ``names`` and ``folder_names`` are the source's, as in `RawExamples`.
    """
    given, plural = data.class_names, kind_of(data).plural
    if given is not None:
        if names is not None and len(names) != len(given):
            raise DataError(
                f"data.class_names: {len(given)} names, but the {plural} have {len(names)} classes; "
                "name each class once, in label order"
            )
        for own in (names, folder_names):
            if own is not None and (found := moved(given, own)) is not None:
                raise DataError(
                    f"data.class_names: '{found.name}' is class {found.number} there, but class {found.there} of the "
                    f"{plural}; name the classes in the order {_listed(own)}"
                )
        names = given
    if names is None:
        # Without names the training set says which classes there are.
        train = labels["train"]
        _check_range("train", _where(data, "train"), train, len(train))
        names = tuple(str(label) for label in range(int(train.max()) + 1))
        if "test" in labels:
            unknown = np.flatnonzero(~np.isin(labels["test"], train))
            if len(unknown):
                raise DataError(
                    f"data.test: label {labels['test'][unknown[0]]} in row {unknown[0]} of {_where(data, 'test')} does "
                    f"not occur in {_where(data, 'train')} ({len(unknown)} such rows); correct the labels or set "
                    "data.class_names"
                )
    for part, values in labels.items():
        _check_range(part, _where(data, part), values, len(names))
    if len(present := np.unique(labels["train"])) == 1:
        raise DataError(
            f"data.train: all {plural} of {_where(data, 'train')} are of one class ('{names[present[0]]}'); "
            f"give {plural} of two classes or more"
        )
    if (problem := METRICS[data.metric].unfit(len(names))) is not None:
        raise DataError(f"data.metric: {problem}")
    return tuple(names)


def _where(data: DataConfig, part: str) -> str:
    paths = getattr(data, part)
    return f"source '{data.source}'" if paths is None else _shown(paths)


def _check_range(part: str, where: str, labels: npt.NDArray[np.int64], num_classes: int) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise DataError(
            f"data.{part}: label {labels[outside[0]]} in row {outside[0]} of {where} is outside the classes 0 to "
            f"{num_classes - 1} ({len(outside)} such rows); correct the labels or data.class_names"
        )
