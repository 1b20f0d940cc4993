"""What a source of images is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.errors import DataError

CHUNK_SIZE = 2000  # images: long enough to outweigh the start of a Ray task, short enough to spread over many CPUs


class RawImage(NamedTuple):
    """An image as its source has it: a PNG or JPEG file, the bytes of one, or decoded pixels, uint8 (H, W, 3).

    ``pixels`` or ``label`` is None where the source has none. ``where`` names the image in error messages.
    """

    pixels: Path | bytes | npt.NDArray[np.uint8] | None
    label: int | None
    where: str


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of a set, read by one Ray task.

    ``start`` is the source index of the first of them, ``read`` yields all ``count`` of them and can be pickled.
    """

    start: int
    count: int
    read: Callable[[], Iterator[RawImage]]


@dataclass(frozen=True)
class RawImages:
    """What a source holds: the training set, the test set if there is one, and class names if it knows them.

    ``folder_names`` are those of the classes' folders where they are called otherwise.
    """

    train: list[Chunk]
    test: list[Chunk] | None
    class_names: tuple[str, ...] | None
    folder_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    ``needs`` are the settings in `DataConfig` that it must have. ``identity`` is the same text exactly as long as the
    images are the same, and cheap to get; ``open`` lists the images without decoding them. Both raise DataError.
    """

    needs: tuple[str, ...]
    identity: Callable[[DataConfig], str]
    open: Callable[[DataConfig], RawImages]


def required(path: Path | None, setting: str) -> Path:
    """The ``path`` that a setting names; raises DataError where there is nothing."""
    if path is None:
        raise DataError(f"data.{setting}: is not set; give the path of the images")
    if not path.exists():
        raise DataError(f"data.{setting}: {path} does not exist; correct the path")
    return path


def array_chunks(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], name: str) -> list[Chunk]:
    """Chunks of a set in memory, images uint8 (N, H, W, 3)."""
    chunks = []
    for start in range(0, len(labels), CHUNK_SIZE):
        part = slice(start, start + CHUNK_SIZE)
        chunks.append(Chunk(start, len(labels[part]), _ArrayReader(images[part], labels[part], name, start)))
    return chunks


@dataclass(frozen=True, eq=False)
class _ArrayReader:
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    name: str
    start: int

    def __call__(self) -> Iterator[RawImage]:
        for row, (image, label) in enumerate(zip(self.images, self.labels.tolist(), strict=True), self.start):
            yield RawImage(image, label, f"{self.name}, image {row}")
