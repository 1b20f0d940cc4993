"""Files and stores in general: write whole or not at all, hash, wait patiently. Needs the standard library alone."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PARTIAL = ".partial"  # how the name of a file ends that is being written
_LONGEST_PAUSE = 30.0  # between two attempts, seconds


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden file beside ``path`` to fill, which takes its place when the block ends, and is removed if it raises.

    The name is its own, so two writers of one ``path`` do not write into one file. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:100]}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A hidden folder to fill, whose contents are in ``folder`` when the block ends, and which is removed if it raises.

    ``folder`` is new, or empty: then it stays itself, as it may be a mount or somebody's working directory. Folders
    above it that are missing are made at the end, so that a block that raises leaves nothing at all behind.
    """
    base = next(path for path in (folder, *folder.parents) if path.exists())  # on the same file system
    partial = base / f".{folder.name[:100]}.{uuid.uuid4().hex[:8]}{PARTIAL}"
    partial.mkdir()
    try:
        yield partial
        if base == folder:
            for file in list(partial.iterdir()):
                file.rename(folder / file.name)
        else:
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, in UTF-8."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def file_sha256(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def patiently(
    ask: Callable[[], T],
    patience: float,
    is_away: Callable[[Exception], bool],
    tell: Callable[[Exception, float], None] = lambda error, pause: None,
) -> T:
    """What ``ask`` returns; while it raises an error that ``is_away``, it is called again, less and less often.

    After ``patience`` seconds its last error is raised. ``tell`` is called before every pause, with the error and the
    seconds.
    """
    start, pause = time.monotonic(), 1.0
    while True:
        try:
            return ask()
        except Exception as error:
            if not is_away(error) or time.monotonic() - start + pause > patience:
                raise
            tell(error, pause)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
