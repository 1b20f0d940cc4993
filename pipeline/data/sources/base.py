"""What a source of data is."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config import DataConfig
from pipeline.errors import DataError
from pipeline.files import absence

CHUNK_SIZE = 2000  # examples: long enough to outweigh the start of a Ray task, short enough to spread over many CPUs
_NAMES_SHOWN = 3


class RawExample(NamedTuple):
    """An example as its source has it, in a form that its kind encodes.

    An image is a file (see `FORMATS`), the bytes of one, or decoded pixels, uint8 (H, W, 3). ``value`` or ``label`` is
    None where the source has none. ``where`` names the example in error messages.
    """

    value: Any
    label: int | None
    where: str


@dataclass(frozen=True, eq=False)
class Chunk:
    """Consecutive examples of a set, read by one Ray task.

    ``start`` is the source index of the first of them, ``read`` yields all ``count`` of them and can be pickled.
    ``labels`` (count) are given where they are known without reading the examples: mistakes are then told beforehand.
    """

    start: int
    count: int
    read: Callable[[], Iterator[RawExample]]
    labels: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class RawExamples:
    """What a source holds: the training set, the test set if there is one, and class names if it knows them.

    ``folder_names`` are those of the classes' folders where they are called otherwise. ``notes`` are sentences for the
    log of every run with these data: what was not read, say.
    """

    train: list[Chunk]
    test: list[Chunk] | None
    class_names: tuple[str, ...] | None
    folder_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A kind of data set.

    ``needs`` are the settings in `DataConfig` that it must have. ``identity`` is the same text exactly as long as the
    examples are the same, and cheap to get; ``open`` lists them without encoding them. Both raise DataError.
    ``encoded``: some values are files or the bytes of files, so that their arrays depend on how those are decoded.
    ``kind`` says in `KINDS` what an example is.
    """

    needs: tuple[str, ...]
    identity: Callable[[DataConfig], str]
    open: Callable[[DataConfig], RawExamples]
    encoded: bool = True
    kind: str = "images"


def required(path: Path | None, setting: str) -> Path:
    """The ``path`` that a setting names; raises DataError where there is nothing."""
    if path is None:
        raise DataError(f"data.{setting}: is not set; give the path of the data")
    if (why := absence(path)) is not None:
        raise DataError(f"data.{setting}: {path} {why}; correct the path")
    return path


def located(paths: Path | Sequence[Path] | None, setting: str) -> list[Path]:
    """The files and folders that a setting names, one or several, some perhaps as a glob; each once.

    Raises DataError where there is nothing, or neither a file nor a folder.
    """
    if not paths:
        raise DataError(f"data.{setting}: is not set; give the path of the data")
    found: list[Path] = []
    for path in [paths] if isinstance(paths, Path) else paths:
        matches, why = [path], absence(path)
        if why is not None and glob.has_magic(str(path)):
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
            why = None if matches else "matches no file or folder"
        if why is not None:
            raise DataError(f"data.{setting}: {path} {why}; correct the path")
        for match in matches:
            if not match.is_file() and not match.is_dir():
                raise DataError(f"data.{setting}: {match} is neither a file nor a folder; correct the path")
        found += matches
    return list(dict.fromkeys(found))


def unread_note(setting: str, unread: Sequence[tuple[str, str]], what: str = "files are not read") -> Iterator[str]:
    """The sentence, if there is one to say, about ``unread``, (path, kind) each: how many of which kind, the first."""
    if unread:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(kind for _, kind in unread).most_common())
        shown = ", ".join(path for path, _ in unread[:_NAMES_SHOWN])
        more = ", ..." if len(unread) > _NAMES_SHOWN else ""
        yield f"data.{setting}: {len(unread)} {what}: {kinds} ({shown}{more})"


class Moved(NamedTuple):
    """A class name that two numberings of the classes have at different numbers."""

    name: str
    number: int
    there: int


def moved(names: Sequence[str], others: Sequence[str]) -> Moved | None:
    """The first of ``names`` that is, upper and lower case alike, the name of another number in ``others``."""
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(others):  # which may have a name twice, as ImageNet's have
        numbers.setdefault(name.casefold(), []).append(number)
    for number, name in enumerate(names):
        there = numbers.get(name.casefold(), [number])
        if number not in there:
            return Moved(name, number, there[0])
    return None


def array_chunks(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], name: str) -> list[Chunk]:
    """Chunks of a set in memory, images uint8 (N, H, W, 3)."""
    chunks = []
    for start in range(0, len(labels), CHUNK_SIZE):
        part = slice(start, start + CHUNK_SIZE)
        reader = _ArrayReader(images[part], labels[part], name, start)
        chunks.append(Chunk(start, len(labels[part]), reader, labels[part]))
    return chunks


@dataclass(frozen=True, eq=False)
class _ArrayReader:
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    name: str
    start: int

    def __call__(self) -> Iterator[RawExample]:
        for row, (image, label) in enumerate(zip(self.images, self.labels.tolist(), strict=True), self.start):
            yield RawExample(image, label, f"{self.name}, image {row}")
