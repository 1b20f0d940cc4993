"""Storage of unfinished trials: a folder, or whatever pyarrow.fs or fsspec opens (an object store)."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeVar

import pyarrow as pa
from pyarrow import fs

from pipeline.errors import SearchError
from pipeline.files import PARTIAL, patiently, replacing

T = TypeVar("T")

_PIECE_BYTES = 16 * 2**20
_PATIENCE = 600.0  # for a store that is away, seconds


class StoreAway(OSError):
    """A store on another machine did not take a file."""


@dataclass(frozen=True)
class Storage:
    """A folder in a file system: ``root`` is an absolute path or a URI, ``folder`` is below it.

    Picklable; every process opens the file system for itself, with the credentials of its environment. What is read
    from a store that is away is waited for, up to ten minutes; then raises SearchError. Several may write at a time.
    """

    root: str
    folder: str = ""

    def child(self, name: str) -> Storage:
        """A folder in this one."""
        return replace(self, folder=f"{self.folder}/{name}")

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file to fill, which then appears under ``name``.

        In a folder it appears whole or not at all. A store on another machine that fails in the middle may keep a part;
        then raises StoreAway.
        """
        system, folder = self._open()
        if isinstance(system, fs.LocalFileSystem):
            with replacing(Path(folder, name)) as partial, partial.open("wb") as file:
                yield file
            return
        with tempfile.TemporaryFile() as content:
            yield content
            content.seek(0)
            try:
                system.create_dir(folder)
                with system.open_output_stream(f"{folder}/{name}") as target:
                    shutil.copyfileobj(content, target, _PIECE_BYTES)
            except OSError as error:
                raise StoreAway(f"{self.root} did not take {name} ({_reason(error)})") from error

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[IO[bytes] | None]:
        """The file ``name``, as it was when it was asked for; None if it is not there."""
        with contextlib.ExitStack() as stack:

            def read(system: fs.FileSystem, folder: str) -> IO[bytes]:
                file: IO[bytes] = stack.enter_context(system.open_input_file(f"{folder}/{name}"))
                if isinstance(system, fs.LocalFileSystem):
                    return file
                # Read as a whole: what reads here and there would ask an object store hundreds of times.
                content = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, content, _PIECE_BYTES)
                content.seek(0)
                return content

            opened: IO[bytes] | None = None
            with contextlib.suppress(FileNotFoundError):
                opened = self._patiently(read)
            yield opened

    def names(self) -> list[str]:
        """The names of the files, sorted."""

        def list_files(system: fs.FileSystem, folder: str) -> list[str]:
            infos = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
            names = [info.base_name for info in infos if info.type == fs.FileType.File]
            return sorted(name for name in names if not name.endswith(PARTIAL))

        return self._patiently(list_files)

    def check(self) -> None:
        """Write, read and remove a folder with a file. Raises SearchError where that fails."""
        scratch = self.child("check")
        try:
            with scratch.writing("file") as file:
                file.write(b"soup")
            with scratch.reading("file") as written:
                reads_back = written is not None and written.read() == b"soup"
            scratch.remove()
        except SearchError:
            raise
        except Exception as error:  # of any kind: file systems of fsspec have errors of their own
            raise SearchError(
                f"search.storage: {self.root} cannot be used ({_reason(error)}); give a folder that all nodes see or a "
                "URI such as s3://bucket/path, with its credentials in the environment"
            ) from error
        if not reads_back:
            raise SearchError(f"search.storage: what was written to {self.root} could not be read back")

    def delete(self, name: str) -> None:
        """Remove a file; one that cannot be removed stays."""
        system, folder = self._open()
        with contextlib.suppress(OSError):
            system.delete_file(f"{folder}/{name}")

    def remove(self) -> None:
        """Remove the folder and all that is in it; what cannot be removed stays."""
        system, folder = self._open()
        with contextlib.suppress(OSError):
            system.delete_dir(folder)

    def _patiently(self, read: Callable[[fs.FileSystem, str], T]) -> T:
        """What ``read`` returns for the opened file system and our folder in it.

        Only a store on another machine is waited for: a local error, and a missing file anywhere, are raised at once.
        """
        system, folder = self._open()
        local = isinstance(system, fs.LocalFileSystem)

        def is_away(error: Exception) -> bool:
            return isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and not local

        try:
            return patiently(lambda: read(system, folder), _PATIENCE, is_away)
        except OSError as error:
            if not is_away(error):
                raise
            raise SearchError(
                f"search.storage: {self.root} cannot be reached ({_reason(error)}); what was recorded is kept, "
                "the same command goes on once the store is well"
            ) from error

    def _open(self) -> tuple[fs.FileSystem, str]:
        """The file system of ``root``, and the path of our folder in it."""
        system, path = _file_system(self.root)
        return system, f"{path.rstrip('/')}{self.folder}"


@functools.lru_cache(maxsize=8)
def _file_system(root: str) -> tuple[fs.FileSystem, str]:
    if "://" not in root:
        return fs.LocalFileSystem(), root
    try:
        system, path = fs.FileSystem.from_uri(root)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        from fsspec.core import url_to_fs

        fsspec_system, path = url_to_fs(root)
        system = fs.PyFileSystem(fs.FSSpecHandler(fsspec_system))
    return system, path


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
