"""A run that is stopped, in whatever way, goes on where it was: nothing is lost, repeated or registered twice."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from program import CONFIG, SMALL, Background, Finished, environment, the_sweep, wait_for

from pipeline.records import IngredientRecord
from pipeline.registry import list_ingredients, read_trials
from pipeline.soups import blocks_done

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

# Trials of some seconds, so that one is surely under way when the signal comes.
LONGER = (
    *("data.train_size=300", "search.num_trials=5", "study.cost_accuracy.step=5"),
    "search.distributions={lr: {loguniform: [1e-5, 1e-4]}, epochs: 8, batch_size: 25, augmentation: minimal}",
)


@pytest.fixture
def start(warm_home, image_store, tmp_path):
    """Starts the command in a session of its own."""

    def starting(number: int, *arguments: str) -> Background:
        command = [sys.executable, "pipeline/run.py", *CONFIG, *SMALL, *LONGER, image_store, *arguments]
        return Background(command, environment(warm_home), tmp_path / f"call-{number}.log")

    return starting


def lost_attempts(output: Path, recorded: list[IngredientRecord]) -> dict[int, list[float]]:
    """Seconds of the attempts of trials that have begun and are not recorded."""
    known = {row.trial_index for row in recorded}
    found = {}
    for file in sorted((output / "trials").glob("*/trial-*/attempt-*.json")):
        index = int(file.parent.name.removeprefix("trial-"))
        if index not in known:
            found.setdefault(index, []).append(json.loads(file.read_text())["seconds"])
    return found


def an_epoch_is_done(output: Path, recorded: list[IngredientRecord]) -> bool:
    known = {row.trial_index for row in recorded}
    saved = (output / "trials").glob("*/trial-*/epoch-*.pt")
    return any(int(path.parent.name.removeprefix("trial-")) not in known for path in saved)


def third_block_of_a_soup(output: Path) -> int | None:
    """How many blocks of the unfinished soup are done, once that are two."""
    done = [blocks_done(path) for path in (output / "unfinished-soups").glob("*.safetensors")]
    return next((number for number in done if number is not None and number >= 2), None)


def processes(running: Background, name: str) -> list[psutil.Process]:
    """Those of the program and all that it started whose title begins so."""
    family = [psutil.Process(process_id) for process_id in running.session()]
    everything = {child for process in family for child in (process, *process.children(recursive=True))}
    return [process for process in everything if " ".join(process.cmdline()).startswith(name)]


def finish(running: Background) -> str:
    assert running.process.wait(timeout=900) == 0, running.output()
    return running.output()


def the_kept(before: list[IngredientRecord], after: list[IngredientRecord]) -> list[IngredientRecord]:
    indices = {row.trial_index for row in before}
    return [row for row in after if row.trial_index in indices]


def check_versions(run: Finished, rows: list[IngredientRecord]) -> None:
    versions = list_ingredients(run.sweep())
    assert [version.trial_index for version in versions] == [None, *range(len(rows))]
    assert [version.version for version in versions[1:]] == [row.model_version for row in rows]
    assert [version.sha256 for version in versions[1:]] == [row.sha256 for row in rows]


def test_killed_in_the_search_and_again_while_souping(start, warm_home):
    run = Finished(warm_home)
    with start(1) as running:
        # Refused while the first is still starting: on a slow machine the sweep would be over before the second knows.
        wait_for((run.output / ".lock").exists, "the lock of the output")
        with start(0) as second:
            assert second.process.wait(timeout=300) == 2, second.output()
            assert f"is being worked on by process {running.process.pid} on " in second.output()
        running.wait_for_output(" 2/5 ")
        assert running.listens_on() == {"127.0.0.1"}
        wait_for(lambda: an_epoch_is_done(run.output, read_trials(run.sweep())), "an epoch of a third trial")
        running.process.kill()
    recorded = read_trials(run.sweep())
    lost = lost_attempts(run.output, recorded)
    assert len(recorded) >= 2
    assert lost
    assert json.loads((run.output / "state.json").read_text())["done"] == {}
    assert not (run.output / "ingredients.parquet").exists()

    with start(2) as running:
        running.wait_for_output("soup: uniform:")
        running.process.kill()
        assert f"search: 5 trials, {len(recorded)} of them recorded" in running.output()
    rows = run.ingredients()
    assert [row.trial_index for row in rows] == [0, 1, 2, 3, 4]
    assert {row.status for row in rows} == {"finished"}
    assert the_kept(recorded, rows) == recorded, "a recorded trial ran again"
    for row in rows:
        assert row.attempts == 1 + len(lost.get(row.trial_index, []))
        assert row.gpu_hours * 3600 > sum(lost.get(row.trial_index, []))
    check_versions(run, rows)
    assert list(json.loads((run.output / "state.json").read_text())["done"]) == ["search"]
    assert not (run.output / "soups.parquet").exists()

    # Blocks of one model and some seconds; the soup task alone is killed, in the third of them or later.
    blocks = ("soup.settings={mehl-plus: {block_size: 1, inner_iterations: 100}}", "study.ablation={}")
    with start(3, *blocks) as running:
        finished_blocks = wait_for(lambda: third_block_of_a_soup(run.output), "two blocks of a soup")
        (task,) = processes(running, "ray::_build_soups")
        task.kill()
        assert running.process.wait(timeout=300) == 2, running.output()
        assert "error: a soup task was lost" in running.output()
        assert "give the same command again to go on" in running.output()

    with start(4, *blocks) as running:
        said = finish(running)
    goes_on = re.search(r"soup: mehl-plus goes on after block (\d)", said)
    assert int(goes_on[1]) >= finished_blocks >= 2
    assert not (run.output / "unfinished-soups").exists()
    assert list(run.output.rglob(".*.partial")) == []
    assert "soup: mehl:" not in said, "a soup that was finished is not built again"
    assert "best %" not in said
    assert run.ingredients() == rows == read_trials(run.sweep())
    check_versions(run, rows)
    assert [row.method for row in run.soups()][-1] == "ensemble"
    sweep = run.sweep()
    client = sweep.client()
    versions = client.search_model_versions(f"name = '{sweep.soup_model}'")
    by_alias = client.get_registered_model(sweep.soup_model).aliases
    assert set(by_alias) == {"best-individual", "uniform", "greedy", "mehl", "mehl-plus", "champion"}
    assert len(versions) == len({version.tags["sha256"] + version.tags["method"] for version in versions})
    children = client.search_runs([sweep.experiment_id], f"tags.sweep_id = '{sweep.sweep_id}'", max_results=1000)
    keys = [(child.data.tags["role"], child.data.tags.get("key")) for child in children]
    assert len(keys) == len(set(keys))
    assert {child.info.status for child in children} == {"FINISHED"}


@pytest.mark.parametrize(
    ("number", "send"),
    [
        (signal.SIGINT, os.killpg),  # as a terminal does
        (signal.SIGTERM, os.kill),  # as `ray job stop` and Kubernetes do
        (signal.SIGTERM, os.killpg),  # as `timeout` does
    ],
)
def test_stopped_by_ctrl_c_or_by_the_scheduler(start, warm_home, number, send):
    run = Finished(warm_home)
    with start(1, "--stages", "search") as running:
        running.wait_for_output(" 1/5 ")
        wait_for(lambda: an_epoch_is_done(run.output, read_trials(run.sweep())), "an epoch of the next trial")
        begun = time.monotonic()
        send(running.process.pid, number)
        assert running.process.wait(timeout=60) == 130, running.output()
        assert time.monotonic() - begun < 30
        last = running.output().splitlines()[-1]
        assert last == "stopped; the same command goes on from here"
        assert "Traceback" not in running.output()
        assert "SIGTERM" not in running.output()
    recorded = read_trials(the_sweep(run.uri))
    assert 1 <= len(recorded) < 5
    assert status_of_the_sweep(run) == "KILLED"
    lost = lost_attempts(run.output, recorded)
    assert json.loads((run.output / "state.json").read_text())["done"] == {}

    with start(2, "--stages", "search") as running:
        said = finish(running)
    # One that was stopped between its version and the end of its run is recorded to the end, and not trained again.
    halfway = {int(index) for index in re.findall(r"trial (\d): its run is missing; made again", said)}
    assert f"{len(recorded) + len(halfway)} of them recorded" in said
    lost = {index: seconds for index, seconds in lost.items() if index not in halfway}
    rows = run.ingredients()
    assert [row.status for row in rows] == ["finished"] * 5
    assert the_kept(recorded, rows) == recorded
    assert {row.trial_index: row.attempts - 1 for row in rows if row.attempts > 1} == {
        index: len(seconds) for index, seconds in lost.items()
    }
    check_versions(run, rows)
    assert status_of_the_sweep(run) == "FINISHED"


def status_of_the_sweep(run):
    sweep = the_sweep(run.uri)
    return sweep.client().get_run(sweep.run_id).info.status
