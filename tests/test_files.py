import errno
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.files import PARTIAL, locked, remove_partial, replacing, scratch

# Holds what the first argument says until it is killed, and says so.
HOLDER = """
import sys, time
from pathlib import Path
from pipeline.files import locked, replacing, scratch
with eval(sys.argv[1]) as held:
    if held is not None and held.is_dir():
        (held / "weights").write_text("x")
    elif held is not None:
        held.write_text("x")
    print(held, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder():
    """Starts a process that holds something."""
    started = []

    def start(expression):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, expression], stdout=subprocess.PIPE, text=True)
        started.append(process)
        process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_lock_says_who_holds_it_and_goes_with_its_holder(tmp_path, holder):
    path = tmp_path / "lock"
    process = holder(f"locked(Path({str(path)!r}))")
    said = rf"process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    for _ in range(2):
        with pytest.raises(BlockingIOError, match=said), locked(path, wait=False):
            pass
    process.send_signal(signal.SIGKILL)
    with locked(path):
        assert f"process {os.getpid()} on " in path.read_text()
    assert path.read_text() == ""


def test_a_lock_may_be_moved_by_its_holder(tmp_path):
    path, moved = tmp_path / "lock", tmp_path / "moved"
    with locked(path):
        path.rename(moved)
        with locked(path, wait=False):
            pass
        with pytest.raises(BlockingIOError), locked(moved, wait=False):
            pass


def test_where_there_are_no_locks_it_goes_without(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "lock", wait=False), scratch() as folder:
        assert folder.is_dir()
    assert not folder.exists()


def test_folders_in_tmpdir_go_with_their_block_or_with_the_next_one(tmp_path, holder, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    process = holder("scratch()")
    (theirs,) = tmp_path.glob("*/*")
    with scratch() as mine:
        (mine / "weights").write_text("x")
        assert (theirs / "weights").exists(), "it is in use"
        process.kill()
        process.wait()
        with scratch():
            assert not theirs.exists()
            assert (mine / "weights").exists()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_was_writing_is_removed(tmp_path, holder):
    process = holder(f"replacing(Path({str(tmp_path / 'figures' / 'a.png')!r}))")
    with replacing(tmp_path / "report.html") as partial:
        partial.write_text("x")
    process.kill()
    process.wait()
    (leftover,) = (tmp_path / "figures").iterdir()
    assert leftover.name.endswith(PARTIAL)
    (tmp_path / f".folder.1234{PARTIAL}" / "below").mkdir(parents=True)
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["report.html"]
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "figures"}


def test_an_error_of_the_disk_names_what_was_being_written(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*figure\.png'"), replacing(tmp_path / "figure.png"):
        Path("/dev/full").write_text("x")  # as a file that is open already would fail
    assert list(tmp_path.iterdir()) == []
