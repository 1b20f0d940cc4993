"""The files of a prepared store: ``train.parquet``, for some sources ``test.parquet``, and a marker written last.

A row is an example: its source index, its label and the array that models take (see `Form`), in fixed-size binary, so
that numpy reads whole row groups without touching single examples. The rows are in no particular order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.examples import ExampleSet
from pipeline.data.kinds import Form

MARKER, TRAIN, TEST = "prepared.json", "train.parquet", "test.parquet"

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """What a finished store holds: numbers of examples (None: the source has no test set) and class names if known.

    ``notes`` are what is to be said of the data whenever they are used. The digests are of the labels and arrays of a
    set in source order; None in stores of an older version.
    """

    num_train: int
    num_test: int | None
    class_names: tuple[str, ...] | None
    folder_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    train_sha256: str | None = None
    test_sha256: str | None = None


def write_marker(folder: Path, prepared: Prepared) -> None:
    """Mark the store in ``folder`` as finished."""
    (folder / MARKER).write_text(json.dumps(vars(prepared)), encoding="utf-8")


def read_marker(folder: Path) -> Prepared:
    """What the finished store in ``folder`` holds."""
    values = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    # Stores of an older version know no names of folders, no notes and no digests.
    class_names, folder_names = (
        None if (names := values.get(key)) is None else tuple(names) for key in ("class_names", "folder_names")
    )
    notes = tuple(values.get("notes", ()))
    digests = (values.get(key) for key in ("train_sha256", "test_sha256"))
    return Prepared(values["num_train"], values["num_test"], class_names, folder_names, notes, *digests)


def schema(form: Form) -> pa.Schema:
    """The columns of a file."""
    return pa.schema([("index", pa.int64()), ("label", pa.int64()), (form.column, pa.binary(form.nbytes))])


def column_of(examples: npt.NDArray[Any]) -> pa.Array:
    """Examples (N, ...) as a column, without a copy where they are C-contiguous."""
    values = np.ascontiguousarray(examples)
    width = values[0].nbytes
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def read_labels(path: Path) -> npt.NDArray[np.int64]:
    """The labels of all examples in ``path`` by source index."""
    table = pq.read_table(path, columns=["index", "label"])
    labels = np.empty(len(table), dtype=np.int64)
    labels[table["index"].to_numpy()] = table["label"].to_numpy()
    return labels


def read_rows(path: Path, form: Form, selections: Sequence[Indices]) -> list[ExampleSet]:
    """Disjoint ``selections`` of the examples in ``path``, by source index and in that order.

    Takes the memory of what is selected and of one row group.
    """
    with pq.ParquetFile(path) as file:
        # Where each example goes, both (examples in the file,) by source index: the number of its selection, -1 for
        # none, and its row in the set that is made of that. So one pass over the file fills all sets, in any order of
        # rows.
        selection_of_example = np.full(file.metadata.num_rows, -1, dtype=np.int64)
        row_of_example = np.zeros(file.metadata.num_rows, dtype=np.int64)
        sets = []
        for number, selection in enumerate(selections):
            selection_of_example[selection] = number
            row_of_example[selection] = np.arange(len(selection))
            inputs = np.empty((len(selection), *form.shape), dtype=form.dtype)
            sets.append(ExampleSet(inputs, np.empty(len(selection), dtype=np.int64)))
        for batch in _batches(file):
            index, labels = batch["index"].to_numpy(), batch["label"].to_numpy()
            inputs = examples_of(batch[form.column], form)
            for number, examples in enumerate(sets):
                batch_rows = np.flatnonzero(selection_of_example[index] == number)
                set_rows = row_of_example[index[batch_rows]]
                examples.labels[set_rows] = labels[batch_rows]
                examples.inputs[set_rows] = inputs[batch_rows]
    return sets


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):
        yield from file.read_row_group(group).to_batches()


def examples_of(column: pa.FixedSizeBinaryArray, form: Form) -> npt.NDArray[Any]:
    """The examples (N, ...) of a `column_of` them, over the same memory."""
    examples: npt.NDArray[Any] = np.frombuffer(column.buffers()[1], dtype=form.dtype).reshape(-1, *form.shape)
    return examples[column.offset : column.offset + len(column)]
