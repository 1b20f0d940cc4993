"""Files and stores in general: write whole or not at all, lock, hash, address, wait patiently.

The standard library alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from pipeline.errors import quoted

T = TypeVar("T")

PARTIAL = ".partial"  # how the name of a file ends that is being written
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what file systems say that know none
_SCRATCH = "soup-pipeline-"  # how the name of a folder in TMPDIR begins
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
    except OSError as error:
        if error.errno is not None and error.filename is None:  # of a write to an open file
            error.filename = str(path)
        raise
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


def absence(path: Path) -> str | None:
    """Why nothing can be had at ``path``, as what a sentence says of it; None where there is a file, a folder, ..."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: no file can have that name
        return f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"
    except OSError as error:
        looping = error.errno == errno.ELOOP
        return "is a link that leads back to itself" if looping else f"cannot be reached ({error.strerror})"
    return None


def is_special(path: Path) -> bool:
    """Whether ``path`` is a pipe, a socket or a device: reading such a file may wait, or go on, for ever."""
    return absence(path) is None and not path.is_file() and not path.is_dir()


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half-written below ``folder``; nobody else may be writing there."""
    for leftover in list(folder.rglob(f".*{PARTIAL}")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path`` during the block; the system takes it from a holder that dies.

    Meanwhile the file says who holds it, since when; it is empty and stays afterwards. It may be moved by its holder.
    Where another process holds it, waits, or without ``wait`` raises BlockingIOError with what the file says. A file
    system that knows no locks, as Lustre may be mounted, gives none, and the block runs without.
    """
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                file.seek(0)
                raise BlockingIOError(error.errno, file.read() or "another process", str(path)) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
            if not _is_still(path, file.fileno()):
                continue
            file.truncate(0)
            file.write(
                f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
            )
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)
            return


def _is_still(path: Path, descriptor: int) -> bool:
    # Its holder may have moved the file between our opening and locking it.
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in TMPDIR during the block. Those that killed processes left there are removed on the way."""
    for leftover in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*/files"):
        with contextlib.suppress(OSError), _held(leftover.parent):  # in use, somebody else's, gone by now
            shutil.rmtree(leftover.parent)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH) as folder, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks: nobody takes it for a leftover either
            stack.enter_context(_held(Path(folder)))
        files = Path(folder, "files")  # made when the lock is held, so that it cannot be taken for a leftover
        files.mkdir()
        yield files


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def positions_by_name(paths: Sequence[Path]) -> dict[str, list[int]]:
    """The positions in ``paths`` that a name may mean: a path, folder and file name, a file name, its stem."""
    positions: dict[str, list[int]] = {}
    for position, path in enumerate(paths):
        for name in dict.fromkeys((str(path), path.name, path.stem, f"{path.parent.name}/{path.name}")):
            positions.setdefault(name, []).append(position)
    return positions


def file_sha256(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_LONGEST_NAME, _LONGEST_PATH = 255, 4095  # bytes that Linux takes


def absolute_path(path: str | PathLike[str], base: Path | None = None) -> Path:
    """``path`` with its `~` filled in, seen from ``base`` (default: the working directory); links stay as they are.

    Raises ValueError for what can be no path on this machine.
    """
    try:
        found = os.path.abspath((base or Path()) / Path(path).expanduser())  # noqa: PTH100 (keeps symlinks)
    except RuntimeError as error:  # of `~name`, or of `~` where the system does not know the user
        raise ValueError(f"{quoted(str(path))} begins with a home folder that there is not; write it out") from error
    except FileNotFoundError as error:
        raise ValueError("the working directory is not there any more; give the command in another") from error
    try:
        names = [name.encode() for name in Path(found).parts]
    except UnicodeEncodeError as error:
        raise ValueError(f"{quoted(found)} has a letter that no file name can have") from error
    if b"\0" in b"".join(names):
        raise ValueError(f"{quoted(found)} has a zero byte, which no file name can have")
    longest, whole = max(map(len, names)), len(found.encode())
    if longest > _LONGEST_NAME or whole > _LONGEST_PATH:
        raise ValueError(
            f"{quoted(found)} is too long: its longest name has {longest} bytes and the whole {whole}, and there may "
            f"be {_LONGEST_NAME} and {_LONGEST_PATH}"
        )
    return Path(found)


_SQLITE = "sqlite:///"
_PLAIN = " !$&'()*+,:;=@[]/"  # characters of a path that mean themselves in a URL of SQLAlchemy


def sqlite_uri(path: Path) -> str:
    """The address of the SQLite file ``path``, as MLflow takes it; `%`, `?`, `#` and other letters are quoted."""
    return f"{_SQLITE}{quote(str(path), safe=_PLAIN)}"


def sqlite_path(uri: str) -> Path | None:
    """The file that the address of a SQLite database names; None for another kind of address."""
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0])) if uri.startswith(_SQLITE) else None


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
