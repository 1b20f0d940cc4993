import pytest

from pipeline.search.attempts import AttemptClock, read_attempts


def test_every_attempt_counts_to_its_last_tick(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("pipeline.search.attempts.time.time", lambda: now[0])
    folder = tmp_path / "trial"
    first = AttemptClock(folder, "cpu")
    now[0] += 5
    first.tick()
    now[0] += 100  # killed: nobody saw the attempt alive here
    second = AttemptClock(folder, "NVIDIA H200")
    now[0] += 2
    second.tick()
    third = AttemptClock(folder, "cpu")
    assert third is not None
    attempts = read_attempts(folder)
    assert [attempt.seconds for attempt in attempts] == pytest.approx([5, 2, 0])
    assert [attempt.device for attempt in attempts] == ["cpu", "NVIDIA H200", "cpu"]


def test_a_half_written_attempt_is_not_read(tmp_path):
    AttemptClock(tmp_path, "cpu")
    (tmp_path / "attempt-001.partial").write_text('{"sec')
    assert len(read_attempts(tmp_path)) == 1


def test_no_folder_no_attempts(tmp_path):
    assert read_attempts(tmp_path / "missing") == []
