"""The splits of a run, cut from the prepared images by a seed.

``train`` fine-tunes, ``pretrain`` makes a small starting point. ``fit`` and ``select`` are the two parts of the
validation set: soups learn from ``fit`` only, the champion is chosen on ``select``. ``test`` is reported, never used;
so are the ``shifts``, other test sets of the same classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.data.images import ImageSet, Splits
from pipeline.data.preparation import prepare, prepare_shift
from pipeline.data.store import TEST, TRAIN, Indices, Prepared, read_images, read_labels, read_marker
from pipeline.data.streaming import StreamedImages
from pipeline.errors import DataError
from pipeline.records import SplitRecord

_NAMES = ("pretrain", "train", "fit", "select", "test")


def load_splits(data: DataConfig, seed: int, memory_bytes: float = math.inf) -> Splits:
    """Prepare the images if need be (see `prepare`), read the splits.

    Training images that take more than ``memory_bytes`` (``data.memory_gib``, where it is set) are not read, but
    streamed from the store in every epoch. Which images a split holds follows from ``seed``, the sizes and the number
    of images. The images of a split are in random order, save those of a whole test set, which keep its order. Raises
    DataError.
    """
    store = prepare(data)
    prepared = read_marker(store)
    labels = {"train": read_labels(store / TRAIN)}
    if prepared.num_test is not None:
        labels["test"] = read_labels(store / TEST)
    class_names = _class_names(data, prepared, labels)
    indices = cut(data, prepared.num_train, prepared.num_test, seed)
    if data.memory_gib is not None:
        memory_bytes = data.memory_gib * 2**30
    streamed = len(indices["train"]) * 3 * data.image_size**2 > memory_bytes
    # All splits that lie in train.parquet are read in one pass over it, without a training set that is streamed.
    not_from_train = {"train"} if streamed else set()
    if prepared.num_test is not None:
        not_from_train.add("test")
    from_train = {name: rows for name, rows in indices.items() if name not in not_from_train}
    sets = dict(zip(from_train, read_images(store / TRAIN, data.image_size, list(from_train.values())), strict=True))
    if prepared.num_test is not None:
        (sets["test"],) = read_images(store / TEST, data.image_size, [indices["test"]])
    train = StreamedImages(store / TRAIN, data.image_size, indices["train"]) if streamed else sets["train"]
    records = [_record(name, indices[name]) for name in _NAMES if name in indices]
    folders = prepared.folder_names or prepared.class_names or data.class_names
    shifts = {name: _shift(data, name, folders, len(class_names)) for name in data.shifts}
    records += [_record(name, np.arange(len(images))) for name, images in shifts.items()]
    return Splits(
        sets.get("pretrain"), train, sets["fit"], sets["select"], sets["test"], class_names, tuple(records), shifts
    )


def _shift(data: DataConfig, name: str, folder_names: Sequence[str] | None, num_classes: int) -> ImageSet:
    """Another test set, whole and in its own order."""
    store = prepare_shift(data, name, folder_names)
    (images,) = read_images(store / TEST, data.image_size, [np.arange(read_marker(store).num_test or 0)])
    _check_range(f"shifts.{name}", str(data.shifts[name]), images.labels, num_classes)
    return images


def cut(data: DataConfig, num_train: int, num_test: int | None, seed: int) -> dict[str, Indices]:
    """Source indices of each split of a source with ``num_train`` training images (and ``num_test`` test images).

    Sizes in ``data`` that are fractions refer to the set that the split is cut from.
    """
    # The sizes first; then the training images, in one random order, are dealt out in the order of `size_of_split`:
    # the first to `test` (where the source has none), then to `pretrain`, `select`, `fit` and last to `train`.
    order = np.random.default_rng([seed, 0]).permutation(num_train)
    size_of_split: dict[str, int] = {}
    if num_test is None:
        if data.test_size is None:
            raise DataError(
                f"data.test_size: source '{data.source}' has no test set; say how many images to cut for it"
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
    if remaining < size_of_split["train"] or remaining < 0:
        raise DataError(f"data: the splits ask for more than the {num_train} images there are ({sizes}); lower a size")
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
    may_be_empty = {"select"} if data.select_fraction == 0 else set()
    for name, rows in indices.items():
        if not len(rows) and name not in may_be_empty:
            raise DataError(f"data: split '{name}' is empty ({sizes} of {num_train} images); raise or lower a size")
    return indices


def _count(size: float, total: int) -> int:
    """A size in images: an int is one already, a float is a fraction of ``total``."""
    return size if isinstance(size, int) else round(size * total)


def _record(name: str, rows: Indices) -> SplitRecord:
    # Sorted, little-endian int64: the digest is of the set of images, on every machine.
    digest = hashlib.sha256(np.sort(rows).astype("<i8").tobytes()).hexdigest()
    return SplitRecord.model_validate({"name": name, "size": len(rows), "indices_sha256": digest})


def _class_names(data: DataConfig, prepared: Prepared, labels: dict[str, npt.NDArray[np.int64]]) -> tuple[str, ...]:
    """Names of the classes, after a check that all labels are among them."""
    names = prepared.class_names
    if data.class_names is not None:
        if names is not None and len(names) != len(data.class_names):
            raise DataError(
                f"data.class_names: {len(data.class_names)} names, but the images have {len(names)} classes; "
                "name each class once, in label order"
            )
        names = tuple(data.class_names)
    if names is None:
        # Without names the training images say which classes there are.
        train = labels["train"]
        _check_range("train", _where(data, "train"), train, len(train))
        names = tuple(str(label) for label in range(int(train.max()) + 1))
        if "test" in labels:
            unknown = np.flatnonzero(~np.isin(labels["test"], train))
            if len(unknown):
                raise DataError(
                    f"data.test: label {labels['test'][unknown[0]]} in row {unknown[0]} of {data.test} does not occur "
                    f"in {data.train} ({len(unknown)} such rows); correct the labels or set data.class_names"
                )
    for part, values in labels.items():
        _check_range(part, _where(data, part), values, len(names))
    return names


def _where(data: DataConfig, part: str) -> str:
    return str(getattr(data, part) or f"source '{data.source}'")


def _check_range(part: str, where: str, labels: npt.NDArray[np.int64], num_classes: int) -> None:
    outside = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(outside):
        raise DataError(
            f"data.{part}: label {labels[outside[0]]} in row {outside[0]} of {where} is outside the classes 0 to "
            f"{num_classes - 1} ({len(outside)} such rows); correct the labels or data.class_names"
        )
