"""Where unfinished trials are kept: a folder, or whatever pyarrow.fs or fsspec opens (an object store)."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import pyarrow as pa
from pyarrow import fs

from pipeline.errors import SearchError

_PIECE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Storage:
    """A folder in a file system: ``root`` is an absolute path or a URI, ``folder`` is below it.

    Picklable; every process opens the file system for itself, with the credentials of its environment.
    """

    root: str
    folder: str = ""

    def child(self, name: str) -> Storage:
        """A folder in this one."""
        return replace(self, folder=f"{self.folder}/{name}")

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to fill, which appears under ``name`` whole or not at all."""
        system, folder = self._open()
        if isinstance(system, fs.LocalFileSystem):
            Path(folder).mkdir(parents=True, exist_ok=True)
            partial = Path(folder, f"{name}.partial")
            with partial.open("wb") as file:
                yield file
            partial.replace(Path(folder, name))
            return
        with tempfile.TemporaryFile() as content:
            yield content
            content.seek(0)
            system.create_dir(folder)
            try:
                # An object store shows a file when its upload has ended.
                with system.open_output_stream(f"{folder}/{name}") as target:
                    shutil.copyfileobj(content, target, _PIECE_BYTES)
            except BaseException:
                with contextlib.suppress(OSError):
                    system.delete_file(f"{folder}/{name}")
                raise

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes] | None]:
        """The file ``name``, as it was when it was asked for; None if it is not there."""
        system, folder = self._open()
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(system.open_input_file(f"{folder}/{name}"))
                if not isinstance(system, fs.LocalFileSystem):
                    # Read as a whole: what reads here and there would ask an object store hundreds of times.
                    content = stack.enter_context(tempfile.TemporaryFile())
                    shutil.copyfileobj(file, content, _PIECE_BYTES)
                    content.seek(0)
                    file = content
            except FileNotFoundError:
                file = None
            yield file

    def names(self) -> list[str]:
        """The names of the files, sorted."""
        system, folder = self._open()
        found = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == fs.FileType.File)

    def check(self) -> None:
        """Write, read and remove a folder with a file. Raises SearchError where that fails."""
        scratch = self.child("check")
        try:
            with scratch.writing("file") as file:
                file.write(b"soup")
            with scratch.reading("file") as file:
                there = file is not None and file.read() == b"soup"
            scratch.remove()
        except (OSError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split())[:200]
            raise SearchError(
                f"search.storage: {self.root} cannot be used ({reason}); give a folder that all nodes see or a URI "
                "such as s3://bucket/path, with its credentials in the environment"
            ) from error
        if not there:
            raise SearchError(f"search.storage: what was written to {self.root} could not be read back")

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        system, folder = self._open()
        with contextlib.suppress(FileNotFoundError):
            system.delete_dir(folder)

    def _open(self) -> tuple[fs.FileSystem, str]:
        system, path = _file_system(self.root)
        return system, f"{path.rstrip('/')}{self.folder}"


@functools.lru_cache(maxsize=8)
def _file_system(root: str) -> tuple[fs.FileSystem, str]:
    if "://" not in root:
        return fs.LocalFileSystem(), root
    try:
        system, path = fs.FileSystem.from_uri(root)
    except pa.ArrowInvalid:  # a scheme that pyarrow does not know
        from fsspec.core import url_to_fs

        opened, path = url_to_fs(root)
        system = fs.PyFileSystem(fs.FSSpecHandler(opened))
    return system, path
