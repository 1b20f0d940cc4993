"""How GPUs are handed out, on a Ray that was told of two: parts of them to trials, whole ones to soup tasks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from program import environment

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
SCRIPT = Path(__file__).parent / "declared_gpus.py"


@pytest.fixture(scope="module")
def stays(tmp_path_factory):
    """Who had which GPU, and when."""
    folder = tmp_path_factory.mktemp("gpus")
    done = subprocess.run(
        [sys.executable, SCRIPT, folder], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (folder / "stays").read_text().splitlines()]
    return {
        kind: [line for line in lines if line["kind"] == kind] for kind in ("trial", "soup", "live trial", "live soup")
    }


def most_at_once(stays):
    return max(sum(other["begun"] <= one["begun"] < other["ended"] for other in stays) for one in stays)


def test_two_trials_share_a_gpu_and_no_more(stays):
    trials = stays["trial"]
    assert len(trials) == 8
    assert {len(trial["gpus"]) for trial in trials} == {1}
    on_each = [[trial for trial in trials if trial["gpus"] == [gpu]] for gpu in (0, 1)]
    assert [most_at_once(on_one) for on_one in on_each] == [2, 2]


def test_each_soup_task_has_a_gpu_to_itself(stays):
    soups = stays["soup"]
    assert len(soups) == 3 * 4
    on_each = [[soup for soup in soups if soup["gpus"] == [gpu]] for gpu in (0, 1)]
    assert [(len(on_one), most_at_once(on_one)) for on_one in on_each] == [(6, 1), (6, 1)]
    assert most_at_once(soups) == 2


def test_a_process_that_used_a_gpu_never_gets_another(stays):
    # Its CUDA context would stay on the first.
    processes = [soup["process"] for soup in stays["soup"]]
    assert len(set(processes)) == 3 * 2, "each of the two tasks of a round has a process of its own"
    for soup in stays["soup"]:
        assert soup["visible"] == str(soup["gpus"][0])


def test_soups_do_not_wait_for_what_trials_left(stays):
    last = max(trial["ended"] for kind in ("trial", "live trial") for trial in stays[kind])
    assert min(soup["begun"] for soup in stays["soup"]) - last < 20


def test_a_soup_of_the_trials_so_far_gets_a_gpu_to_itself_before_trials_that_wait(stays):
    (soup,), trials = stays["live soup"], stays["live trial"]
    assert len(trials) == 8
    beside = [trial for trial in trials if trial["begun"] < soup["ended"] and soup["begun"] < trial["ended"]]
    assert all(trial["gpus"] != soup["gpus"] for trial in beside)
    # One trial more than run at a time had been handed to Tune when the soup was due.
    assert sum(trial["begun"] < soup["begun"] for trial in trials) <= 5
