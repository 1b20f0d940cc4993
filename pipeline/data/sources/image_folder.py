"""Folders ``train`` and ``test`` with a folder of JPEG and PNG files per class; the classes are numbered by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import DataConfig, nearest
from pipeline.data.sources.base import CHUNK_SIZE, Chunk, RawImage, RawImages, Source, required
from pipeline.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png")


def _identity(data: DataConfig) -> str:
    return "\n".join(
        identity(required(root, name), name) for name, root in (("train", data.train), ("test", data.test))
    )


def identity(root: Path, setting: str) -> str:
    """Of one set; see `Source`."""
    stats = [(entry.path, entry.stat()) for entry in _images(root)]
    return "\n".join(f"{setting} {path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)


def _open(data: DataConfig) -> RawImages:
    train, test = required(data.train, "train"), required(data.test, "test")
    names = [folder.name for folder in _folders(train)]
    if not names:
        raise DataError(
            f"data.train: {train} holds no class folders; put the images of each class in a folder of its own"
        )
    test_chunks = chunks(test, names, "test")
    for name in names:
        if not any(_images_of(train / name)):
            raise DataError(f"data.train: no {', '.join(_SUFFIXES)} images in {train / name}; add some or remove it")
    return RawImages(chunks(train, names, "train"), test_chunks, tuple(names))


def chunks(root: Path, names: Sequence[str], setting: str) -> list[Chunk]:
    """The images of one set, labelled by the position of their folder in ``names``. Raises DataError."""
    for folder in _folders(root):
        if folder.name not in names:
            raise DataError(
                f"data.{setting}: {folder.path} is a class that the training set does not have; "
                f"{nearest(folder.name, names)}"
            )
    paths = [entry.path for entry in _images(root)]
    if not paths:
        raise DataError(f"data.{setting}: no {', '.join(_SUFFIXES)} images in the class folders of {root}")
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[Path(path).parent.name] for path in paths]
    parts = [slice(start, start + CHUNK_SIZE) for start in range(0, len(paths), CHUNK_SIZE)]
    return [Chunk(part.start, len(paths[part]), _FileReader(paths[part], labels[part])) for part in parts]


@dataclass(frozen=True)
class _FileReader:
    paths: list[str]
    labels: list[int]

    def __call__(self) -> Iterator[RawImage]:
        for path, label in zip(self.paths, self.labels, strict=True):
            yield RawImage(Path(path), label, path)


def _images(root: Path) -> Iterator[os.DirEntry[str]]:
    for folder in _folders(root):
        yield from _images_of(folder)


def _folders(root: Path) -> list[os.DirEntry[str]]:
    try:
        return _sorted(entry for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    except NotADirectoryError as error:
        raise DataError(f"{root} is a file; source 'image_folder' needs a folder with one folder per class") from error


def _images_of(folder: os.PathLike[str]) -> list[os.DirEntry[str]]:
    return _sorted(
        entry
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(_SUFFIXES) and not entry.name.startswith(".")
    )


def _sorted(entries: Iterator[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    return sorted(entries, key=lambda entry: entry.name)


IMAGE_FOLDER = Source(needs=("train", "test"), identity=_identity, open=_open)
