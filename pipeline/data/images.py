"""Sets of decoded images in memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.records import SplitRecord


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, uint8 (N, 3, H, W), C-contiguous, RGB; and their class numbers, int64 (N,).

    The arrays may be read-only: those that come out of Ray's object store are shared between processes.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels as CPU tensors over the same memory; never write to them."""
        with warnings.catch_warnings():
            # torch has no read-only tensors and warns about every read-only array.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
            return torch.from_numpy(self.images), torch.from_numpy(self.labels)


@dataclass(frozen=True, eq=False)
class Splits:
    """The images of a run; which split may be used for what is said in `pipeline.data.splits`.

    ``select`` may be empty, ``pretrain`` is None where no size was asked for. ``records`` has an entry for each split
    that exists.
    """

    pretrain: ImageSet | None
    train: ImageSet
    fit: ImageSet
    select: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    records: tuple[SplitRecord, ...]
