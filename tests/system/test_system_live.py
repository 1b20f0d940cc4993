"""Soups while the sweep runs: killed, stopped by rule, gone on with, and the same as those of the study."""

import json
import shutil
import sys

import pytest
from program import CONFIG, SMALL, Background, Finished, environment, wait_for
from test_system_kills import processes, third_block_of_a_soup

from pipeline.records import CostRecord, PredictionRecord
from pipeline.records.folder import RunFolder, predictions_path, read_run
from pipeline.records.tables import read_table
from pipeline.registry import find_soup

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

LIVE = (
    *("search.num_trials=6", "study.cost_accuracy.step=2", "study.cost_accuracy.live=true"),
    *("study.cost_accuracy.orders=0", "study.ablation={}", "study.wise_ft.methods=[]", "study.elimination.top=[2]"),
    "search.distributions={lr: {loguniform: [1e-5, 1e-4]}, epochs: 4, batch_size: 25, augmentation: minimal}",
    "soup.methods=[best-individual, greedy, mehl-plus]",
    "soup.settings={mehl-plus: {block_size: 1, outer_iterations: 6, inner_iterations: 30}}",  # blocks of some seconds
)
RULE = "search.stop.max_gpu_hours=1e-6"  # known to be over it once the first trial has ended
NO_GAIN = ("search.stop.min_gain=0.9", "search.stop.per_gpu_hours=1e-9")
SOUPS = ("greedy-2", "mehl-plus-2", "greedy-4", "mehl-plus-4")


def note(run: Finished) -> str:
    """What the page of the sweep's run begins with in MLflow's UI."""
    return run.sweep().client().get_run(run.sweep().run_id).data.tags["mlflow.note.content"]


@pytest.fixture(scope="module")
def calls(migrated_store, image_store, tmp_path_factory):
    """The run after each of four calls: what they said, and what lay in the folder then."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "home" / "runs").mkdir(parents=True)
    shutil.copy(migrated_store, folder / "home" / "runs" / "mlflow.db")
    run = Finished(folder / "home")

    def call(number, *arguments):
        command = [sys.executable, "pipeline/run.py", *CONFIG, *SMALL, *LIVE, image_store, *arguments]
        return Background(command, environment(folder / "home"), folder / f"call-{number}.log")

    found = []

    def finish(running):
        assert running.process.wait(timeout=900) == 0, running.output()
        table = read_table(run.output / "cost_accuracy.parquet", CostRecord)
        predictions = {
            name: read_table(run.output / predictions_path(f"cost-accuracy/{name}"), PredictionRecord)
            for name in SOUPS
            if (run.output / predictions_path(f"cost-accuracy/{name}")).exists()
        }
        tags = run.sweep().client().get_run(run.sweep().run_id).data.tags
        found.append(
            {"said": running.output(), "rows": run.ingredients(), "record": read_run(RunFolder(run.output)),
             "table": table, "predictions": predictions, "tags": tags}
        )  # fmt: skip

    with call(1, RULE) as running:
        wait_for(lambda: third_block_of_a_soup(run.output), "two blocks of a soup")
        (task,) = processes(running, "ray::_build_soups")
        task.kill()
        finish(running)
    with call(2) as running:
        running.wait_for_output("live: MEHL-Soup+ of 4 ingredients")
        wait_for(lambda: "The sweep runs; soups" in note(run), "the soups so far in the description of the sweep")
        found.append(find_soup(run.sweep(), "champion"))
        finish(running)
    state = json.loads((run.output / "state.json").read_text())
    state["soups"] = {name: soup for name, soup in state["soups"].items() if not name.startswith("cost-accuracy/")}
    del state["done"]["cost-accuracy"]
    (run.output / "state.json").write_text(json.dumps(state))
    with call(3) as running:
        finish(running)
    with call(4, "search.num_trials=8", *NO_GAIN) as running:
        finish(running)
    stopped, champion, gone_on, rebuilt, without_gain = found
    return {
        "stopped": stopped, "champion": champion, "gone on": gone_on, "rebuilt": rebuilt, "without gain": without_gain
    }  # fmt: skip


def test_a_sweep_ends_by_its_rule_and_loses_no_trial_that_had_begun(calls):
    stopped = calls["stopped"]
    reason = stopped["record"].stopped
    assert reason.startswith("search.stop.max_gpu_hours: ")
    assert f"search: no more trials begin: {reason}" in stopped["said"]
    assert f"ended before its last trial by {reason}" in " ".join(stopped["said"].split())
    assert stopped["tags"]["stopped"] == reason
    assert [row.status for row in stopped["rows"]] == ["finished"] * len(stopped["rows"])
    assert 2 <= len(stopped["rows"]) <= 4  # one a core, one that waited, one on a core that was free before the answer


def test_the_same_command_without_the_rule_goes_on(calls):
    before, after = calls["stopped"]["rows"], calls["gone on"]["rows"]
    assert after[: len(before)] == before
    assert len(after) == 6
    assert calls["gone on"]["record"].stopped is None
    assert "stopped" not in calls["gone on"]["tags"]


def test_a_sweep_whose_soups_gain_too_little_grows_no_further(calls):
    before, after = calls["rebuilt"], calls["without gain"]
    reason = after["record"].stopped
    assert reason.startswith("search.stop.min_gain: in each of the last 2 steps up to 6 ingredients, soups gained")
    assert f"search: no more trials begin: {reason}" in after["said"]
    assert after["tags"]["stopped"] == reason
    assert after["rows"] == before["rows"]
    elsewhere = {"predictions"}  # a soup of all trials is known by its name here, and there by its number of trials
    now, then = ([row.model_dump(exclude=elsewhere) for row in call["table"]] for call in (after, before))
    assert now == then


def test_a_soup_that_is_killed_harms_no_trial_and_is_made_later(calls):
    said = calls["stopped"]["said"]
    assert "warning: live: a soup task was lost" in said
    assert "goes on after block" in said
    assert {"greedy-2", "mehl-plus-2"} <= {
        f"{row.method}-{row.num_ingredients}" for row in [*calls["gone on"]["table"], *calls["stopped"]["table"]]
    }


def test_the_study_has_nothing_left_to_build(calls):
    said = calls["gone on"]["said"]
    assert "live: cost-accuracy/greedy-4: " in said
    assert "study: cost-accuracy/" not in said


def test_live_soups_are_those_of_the_study_bit_for_bit(calls):
    live, rebuilt = calls["gone on"], calls["rebuilt"]
    assert "study: cost-accuracy/mehl-plus-4: " in rebuilt["said"]
    assert live["table"] == rebuilt["table"]
    assert list(live["predictions"]) == list(SOUPS)
    assert live["predictions"] == rebuilt["predictions"]


def test_the_champion_so_far_can_be_served_while_the_sweep_goes_on(calls):
    assert calls["champion"].method in ("best-individual", "greedy", "mehl-plus")
    assert len(calls["champion"].lineage.ingredients) <= 4


def test_each_point_is_told_with_what_it_says_of_more_trials(calls):
    said = calls["gone on"]["said"]
    (line,) = [line for line in said.splitlines() if "live: MEHL-Soup+ of 4 ingredients after " in line]
    assert " pp (95 % interval " in line
    assert line.endswith(("pay off", "no reason for more trials"))
