import contextlib
import errno
import subprocess
import sys
import time

import pytest

from pipeline.search import attempts
from pipeline.search.attempts import read_attempts, timed_attempt
from pipeline.search.storage import Storage


def test_every_attempt_counts_from_its_beginning_to_its_end(tmp_path):
    folder = Storage(str(tmp_path / "trial"))
    with contextlib.suppress(ConnectionError), timed_attempt(folder, "NVIDIA H200", 0.5, "10.0.0.7"):
        time.sleep(0.3)
        raise ConnectionError
    with timed_attempt(folder, "cpu", 2.0, "10.0.0.8"):
        assert len(read_attempts(folder)) == 2, "an attempt that is under way counts already"
    first, second = read_attempts(folder)
    assert (first.device, first.node) == ("NVIDIA H200", "10.0.0.7")
    assert (second.device, second.node) == ("cpu", "10.0.0.8")
    assert second.hours == pytest.approx(2 * second.seconds / 3600)
    assert 0.3 <= first.seconds < 0.3 + 5
    assert second.seconds < first.seconds


def test_a_killed_attempt_counts_up_to_its_last_seconds(tmp_path):
    code = (
        "import os, sys, time; from pipeline.search import attempts; from pipeline.search.storage import Storage\n"
        "attempts._TICK_SECONDS = 0.1\n"
        "with attempts.timed_attempt(Storage(sys.argv[1]), 'cpu', 2, '10.0.0.8'): time.sleep(1); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], timeout=60).returncode == 9
    (killed,) = read_attempts(Storage(str(tmp_path)))
    assert 0.5 < killed.seconds < 1.5


def test_a_full_disk_does_not_end_the_ticking(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "_TICK_SECONDS", 0.05)
    with timed_attempt(Storage(str(tmp_path)), "cpu", 2.0, "10.0.0.8"):
        with monkeypatch.context() as full:
            full.setattr(Storage, "writing", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            time.sleep(0.3)
        time.sleep(0.3)
        assert read_attempts(Storage(str(tmp_path)))[0].seconds > 0.3


def test_a_half_written_attempt_is_not_read(tmp_path):
    with timed_attempt(Storage(str(tmp_path)), "cpu", 2.0, "10.0.0.8"):
        (tmp_path / "attempt-001.json.0123.partial").write_text('{"sec')
    assert len(read_attempts(Storage(str(tmp_path)))) == 1


def test_no_folder_no_attempts(tmp_path):
    assert read_attempts(Storage(str(tmp_path / "missing"))) == []
