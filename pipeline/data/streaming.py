"""Training examples that do not fit into memory: streamed from the store by ray.data, shuffled anew in every epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.data.examples import Batch, Gather
from pipeline.data.kinds import Form
from pipeline.data.quiet import quiet_ray_data
from pipeline.data.store import examples_of

_SHUFFLE_BYTES = 256 * 2**20  # from which the examples of a batch are drawn
_READERS = 2  # row groups that are read at a time for a trial; the next batch is then there before it is asked for


@dataclass(frozen=True, eq=False)
class StreamedExamples:
    """The examples of a Parquet file of the store whose source index is in ``rows``; see `TrainingExamples`.

    An epoch takes the row groups in random order and draws batches at random from a buffer of them. It needs an
    initialised Ray, but none of its CPUs: readers reserve none, so that trials which hold all cores cannot starve them.
    """

    path: Path
    form: Form
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def epoch(self, batch_size: int, seed: int, gather: Gather = torch.Tensor.__getitem__) -> Iterator[Batch]:
        """See `TrainingExamples`; what would be a last batch of one, which BatchNorm cannot take, is left out."""
        import ray
        from ray.data import DataContext, TaskPoolStrategy

        quiet_ray_data()
        # Or the order would follow the readers' speed.
        DataContext.get_current().execution_options.preserve_order = True
        num_groups, mask = self._layout()
        groups = np.random.default_rng(seed).permutation(num_groups)
        # What flows through Ray are the numbers of row groups, a block each. A task reads the group of its block and
        # hands on our examples of it, in order; here they fill the shuffle buffer that batches are drawn from. Batches
        # are of nearly equal size, as those of `ExampleSet`.
        batches = (
            ray.data.from_items(groups.tolist(), override_num_blocks=len(groups))
            .map_batches(
                _read,
                fn_args=(self.path, mask),
                batch_size=1,
                zero_copy_batch=True,
                num_cpus=0,
                compute=TaskPoolStrategy(size=_READERS),
            )
            .iter_batches(
                batch_size=math.ceil(len(self) / math.ceil(len(self) / batch_size)),
                batch_format="pyarrow",
                local_shuffle_buffer_size=max(batch_size, _SHUFFLE_BYTES // self.form.nbytes),
                local_shuffle_seed=seed,
            )
        )
        for table in batches:
            if len(table) > 1:
                yield self._tensors(table)

    def ordered(self, batch_size: int) -> Iterator[Batch]:
        """See `TrainingExamples`."""
        num_groups, mask = self._layout()
        yield from self._ordered(range(num_groups), mask, batch_size)

    def sample(self, count: int) -> torch.Tensor:
        """See `TrainingExamples`; from row groups at random, since neighbours in the file may be of one class."""
        num_groups, mask = self._layout()
        parts: list[torch.Tensor] = []
        for images, _ in self._ordered(np.random.default_rng(0).permutation(num_groups), mask, count):
            parts.append(images)
            if sum(map(len, parts)) >= count:
                break
        return torch.cat(parts)[:count]

    def _ordered(self, groups: Iterable[int], mask: npt.NDArray[np.bool_], batch_size: int) -> Iterator[Batch]:
        """Our examples of these row groups in the order of the file, read by this process."""
        with pq.ParquetFile(self.path) as file:
            for group in groups:
                images, labels = self._tensors(_selected(file, int(group), mask))
                yield from zip(images.split(batch_size), labels.split(batch_size), strict=True)

    def _layout(self) -> tuple[int, npt.NDArray[np.bool_]]:
        """The number of row groups, and by source index (examples in the file,) which of them are ours."""
        with pq.ParquetFile(self.path) as file:
            mask = np.zeros(file.metadata.num_rows, dtype=np.bool_)
            mask[self.rows] = True
            return int(file.num_row_groups), mask

    def _tensors(self, table: pa.Table) -> Batch:
        examples = examples_of(table[self.form.column].combine_chunks(), self.form)
        return torch.from_numpy(examples.copy()), torch.from_numpy(table["label"].to_numpy().copy())


def _read(batch: dict[str, Any], path: Path, mask: npt.NDArray[np.bool_]) -> Iterator[pa.Table]:
    """In a Ray task: our rows of the row groups whose numbers are in ``batch`` (of one row, see `epoch`)."""
    with pq.ParquetFile(path) as file:
        for group in batch["item"]:
            yield _selected(file, int(group), mask)


def _selected(file: pq.ParquetFile, group: int, mask: npt.NDArray[np.bool_]) -> pa.Table:
    """The rows of a row group whose source index has True in ``mask``: rows are in no order, the index column tells."""
    table = file.read_row_group(group)
    return table.filter(pa.array(mask[table["index"].to_numpy()]))
