"""Folders ``train`` and ``test`` with a folder of image files per class; the classes are numbered by name.

Folders in a class folder belong to that class. Symbolic links are followed; what is hidden (.DS_Store) is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.config import DataConfig, nearest
from pipeline.data.decode import FORMATS, SUFFIXES
from pipeline.data.sources.base import CHUNK_SIZE, Chunk, RawExample, RawExamples, Source, located, unread_note
from pipeline.errors import DataError

_LITTER = {"thumbs.db", "desktop.ini"}  # what Windows leaves in folders; on other systems such files are hidden
_DEEPEST = 100  # level of folders below a class folder that is read
_SPLITS = {"train", "training", "val", "valid", "validation", "test", "dev"}


def _identity(data: DataConfig) -> str:
    return "\n".join(
        identity(located(paths, setting), setting) for setting, paths in (("train", data.train), ("test", data.test))
    )


def identity(roots: Sequence[Path], setting: str) -> str:
    """Of one set; see `Source`."""
    entries = [entry for found in _class_folders(roots).values() for entry in found.images]
    stats = [(entry.path, entry.stat()) for entry in entries]
    return "\n".join(f"{setting} {path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)


def _open(data: DataConfig) -> RawExamples:
    roots = {"train": located(data.train, "train"), "test": located(data.test, "test")}
    train = _class_folders(roots["train"])
    if not train:
        raise DataError(
            f"data.train: {_shown(roots['train'])} holds no class folders; "
            "put the images of each class in a folder of its own"
        )
    if _SPLITS.issuperset(name.lower() for name in train):
        raise DataError(
            f"data.train: {_shown(roots['train'])} holds the folders {', '.join(train)}, which look like sets of "
            "images and not like classes; give the folder of the training images"
        )
    names = tuple(train)
    test_chunks, test_notes = chunks(roots["test"], names, "test")
    for name, found in train.items():
        if not found.images:
            held = "; ".join(unread_note("train", found.unread, "files in it are not read"))
            where = ", ".join(str(root / name) for root in roots["train"] if (root / name).is_dir())
            raise DataError(
                f"data.train: no images in {where} of the kinds that are read ({', '.join(FORMATS)}); "
                f"add some or remove it{f' ({held})' if held else ''}"
            )
    train_chunks, train_notes = chunks(roots["train"], names, "train")
    return RawExamples(train_chunks, test_chunks, names, notes=(*train_notes, *test_notes))


def chunks(roots: Sequence[Path], names: Sequence[str], setting: str) -> tuple[list[Chunk], list[str]]:
    """The images of one set, labelled by the position of their folder in ``names``; notes, see `RawExamples`.

    Raises DataError.
    """
    folders = _class_folders(roots)
    for name in folders:
        if name not in names:
            where = next(root / name for root in roots if (root / name).is_dir())
            raise DataError(
                f"data.{setting}: {where} is a class that the training set does not have; {nearest(name, names)}"
            )
    paths = [entry.path for found in folders.values() for entry in found.images]
    if not paths:
        raise DataError(
            f"data.{setting}: no {', '.join(FORMATS)} images in the class folders of {_shown(roots)}; correct the path"
        )
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[name] for name, found in folders.items() for _ in found.images]
    parts = [slice(start, start + CHUNK_SIZE) for start in range(0, len(paths), CHUNK_SIZE)]
    made = [
        Chunk(part.start, len(paths[part]), _FileReader(paths[part], labels[part]), np.array(labels[part], np.int64))
        for part in parts
    ]
    return made, list(_notes(roots, folders, setting))


@dataclass(frozen=True)
class _FileReader:
    paths: list[str]
    labels: list[int]

    def __call__(self) -> Iterator[RawExample]:
        for path, label in zip(self.paths, self.labels, strict=True):
            yield RawExample(Path(path), label, path)


@dataclass
class _Found:
    """What is in a class folder: images, those of them that lie deeper, and (path, kind) of what is not read."""

    images: list[os.DirEntry[str]] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)


def _class_folders(roots: Sequence[Path]) -> dict[str, _Found]:
    """What is in the class folders of all ``roots``, by their names, in order of these."""
    classes: dict[str, _Found] = {}
    for root in roots:
        for entry in _entries(root):
            if _is(entry.is_dir):
                _walk(entry, classes.setdefault(entry.name, _Found()), set(), 0)
    return dict(sorted(classes.items()))


def _walk(folder: os.DirEntry[str], found: _Found, seen: set[tuple[int, int]], depth: int) -> None:
    """Add to ``found`` what is in ``folder``, ``depth`` levels below the class folder.

    ``seen`` are the folders that were read, by device and number: links may lead to them in endlessly many ways.
    """
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in seen:
        found.unread.append((folder.path, "link to a folder that is read already"))
        return
    if depth > _DEEPEST:
        found.unread.append((folder.path, f"folder more than {_DEEPEST} levels deep"))
        return
    seen.add((stat.st_dev, stat.st_ino))
    for entry in _entries(folder):
        if _is(entry.is_dir):
            _walk(entry, found, seen, depth + 1)
        elif (kind := _unread_kind(entry)) is not None:
            found.unread.append((entry.path, kind))
        else:
            found.images.append(entry)
            if depth:
                found.nested.append(entry.path)


def _unread_kind(entry: os.DirEntry[str]) -> str | None:
    """What to call a file that is not read; None for an image."""
    if not _is(entry.is_file):  # a pipe would be waited for
        return "broken link" if entry.is_symlink() and not Path(entry.path).exists() else "special file"
    suffix = Path(entry.name).suffix.lower()
    return None if suffix in SUFFIXES else suffix or "without extension"


def _is(kind: Callable[[], bool]) -> bool:
    """Whether the entry of a folder is of a ``kind``; a link that leads back to itself is of none."""
    try:
        return kind()
    except OSError:
        return False


def _entries(folder: os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        entries = [*os.scandir(folder)]
    except NotADirectoryError as error:
        raise DataError(
            f"{folder} is a file; source 'image_folder' needs a folder with one folder per class"
        ) from error
    except OSError as error:
        raise DataError(f"{os.fspath(folder)} cannot be read ({error.strerror}); check its permissions") from error
    visible = (entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _LITTER)
    return sorted(visible, key=lambda entry: entry.name)


def _notes(roots: Sequence[Path], folders: dict[str, _Found], setting: str) -> Iterator[str]:
    beside = [entry for root in roots for entry in _entries(root) if not _is(entry.is_dir)]
    unclassed = [(entry.path, _unread_kind(entry) or Path(entry.name).suffix.lower()) for entry in beside]
    yield from unread_note(setting, unclassed, "files are in no class folder and not read")
    yield from unread_note(setting, [file for found in folders.values() for file in found.unread])
    nested = [(path, f"of '{name}'") for name, found in folders.items() for path in found.nested]
    yield from unread_note(setting, nested, "images are in folders below their class folder")


def _shown(roots: Sequence[Path]) -> str:
    return ", ".join(map(str, roots))


IMAGE_FOLDER = Source(needs=("train", "test"), identity=_identity, open=_open)
