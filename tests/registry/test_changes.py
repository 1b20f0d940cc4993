"""What people change by hand in MLflow between two calls: found, made again, named, or left alone."""

import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from mlflow.entities import ViewType
from samples import hyperparameters
from test_registry import (
    THETA0,
    fail_trial,
    lineage,
    record_trial,
    runs,
    soup_model,
    soup_record,
    versions,
    weights,
)
from test_registry import recorder as recorder
from test_registry import sweep as sweep

from pipeline.errors import RegistryError
from pipeline.records import CostRecord, EpochRecord
from pipeline.registry import (
    REMEDY,
    connect,
    current_soups,
    describe,
    fetch_description,
    fetch_ingredients,
    fetch_soup,
    file_changes,
    find_soup,
    find_sweep,
    list_ingredients,
    list_soups,
    log_costs,
    open_sweep,
    point_aliases,
    read_trials,
    register_soup,
    set_champion,
    soup_changes,
    store_errors,
    sweep_changes,
    trial_changes,
)
from pipeline.registry.client import local_path
from pipeline.weights import save_weights


def undone(sweep, known=()):
    """What was changed, after it was undone; asserts that nothing is left."""
    changes = trial_changes(sweep, known)
    for change in changes:
        assert change.undo is not None, change.what
        change.undo()
    assert trial_changes(sweep, known) == []
    return [change.what for change in changes]


def opened_again(sweep):
    return open_sweep(sweep.tracking_uri, sweep.name, sweep.sweep_id, None, sweep.origin)


def same_ingredients(sweep, rows, folder):
    """The trials are recorded as they were, but for where they are, and their weights can be had."""

    def outcomes(rows):
        return [row.model_dump(exclude={"path", "model_version"}) for row in rows]

    assert outcomes(read_trials(sweep)) == outcomes(rows)
    found = list_ingredients(sweep)
    assert [version.trial_index for version in found] == [row.trial_index for row in rows if row.status == "finished"]
    numbers = {row.trial_index: row.model_version for row in read_trials(sweep)}
    assert all(numbers[version.trial_index] == version.version for version in found)
    assert fetch_ingredients(found, folder)


def delete_for_good(client, run_id):
    client._tracking_client.store._hard_delete_run(run_id)  # as `mlflow gc` does


@pytest.fixture
def rows(sweep, recorder):
    return [record_trial(recorder, 0), fail_trial(recorder, 1), record_trial(recorder, 2)]


def run_of(sweep, index):
    return next(run.info.run_id for run in runs(sweep, "trial") if run.data.tags["key"] == str(index))


def test_what_was_not_changed_is_left_as_it_is(sweep, recorder, rows):
    recorder.upload_theta0(weights(9), {})
    assert trial_changes(sweep) == trial_changes(sweep, rows) == []
    assert sweep_changes(sweep) == []


def test_deleted_runs_of_trials_are_restored(sweep, rows, tmp_path):
    client = sweep.client()
    for index in (0, 1):
        client.delete_run(run_of(sweep, index))
    assert undone(sweep) == ["trial 0: its run was deleted", "trial 1: its run was deleted"]
    same_ingredients(sweep, rows, tmp_path)
    assert len(runs(sweep, "trial")) == 3


def test_a_deleted_version_is_registered_again_from_its_run(sweep, recorder, rows, tmp_path):
    recorder.upload_theta0(weights(9), {})
    client = sweep.client()
    for version in versions(sweep, "demo-ingredient"):
        if version.tags.get("trial_index") != "0":
            client.delete_model_version("demo-ingredient", version.version)
    assert undone(sweep) == ["trial 2: its version was deleted", "theta0: its version was deleted"]
    found = list_ingredients(sweep)
    assert [(version.trial_index, version.version) for version in found] == [(None, 5), (0, 1), (2, 4)]
    assert fetch_ingredients(found, tmp_path)
    assert [row.model_version for row in read_trials(sweep)] == [1, None, 4]
    (theta0,) = (version for version in versions(sweep, "demo-ingredient") if version.tags.get("role"))
    assert theta0.tags["theta0_sha256"] == THETA0


@pytest.mark.parametrize("how", ["delete_registered_model", "rename_registered_model"])
def test_a_model_that_is_deleted_or_renamed_is_made_again(sweep, rows, tmp_path, how):
    client = sweep.client()
    getattr(client, how)("demo-ingredient", *(["mine"] if how.startswith("rename") else []))
    assert list_ingredients(sweep) == []
    again = opened_again(sweep)
    assert undone(again) == ["trial 0: its version was deleted", "trial 2: its version was deleted"]
    same_ingredients(again, rows, tmp_path)
    assert len(versions(sweep, "mine")) == (2 if how.startswith("rename") else 0)


def test_what_is_gone_for_good_is_made_again_from_the_rows(sweep, rows, tmp_path):
    """The weights are there; the run is not, and the other has no version either."""
    client = sweep.client()
    for index in (0, 1):
        delete_for_good(client, run_of(sweep, index))
    client.delete_model_version("demo-ingredient", "1")
    assert undone(sweep, rows) == [
        "trial 0: its run is missing", "trial 0: its version was deleted", "trial 1: its run is missing",
    ]  # fmt: skip
    same_ingredients(sweep, rows, tmp_path)
    assert read_trials(sweep)[0].path != rows[0].path


def test_a_trial_whose_run_is_gone_for_good_is_known_by_its_version(sweep, rows, tmp_path):
    delete_for_good(sweep.client(), run_of(sweep, 2))
    assert undone(sweep) == ["trial 2: its run is missing"]
    same_ingredients(sweep, rows, tmp_path)


def test_weights_that_are_gone_are_named_with_the_remedy_and_not_trained_again(sweep, rows):
    client = sweep.client()
    delete_for_good(client, run_of(sweep, 0))
    local_path(rows[0].path).unlink()
    client.delete_model_version("demo-ingredient", "1")
    run, version = trial_changes(sweep, rows)
    assert version.undo is None
    assert version.what.startswith("trial 0: its version was deleted, and its weights ")
    assert f"are gone; {REMEDY}" in version.what
    run.undo()
    assert [row.trial_index for row in read_trials(sweep)] == [0, 1, 2]  # it counts as recorded


def test_tags_of_a_version_are_set_again(sweep, recorder, rows, tmp_path):
    recorder.upload_theta0(weights(9), {})
    client = sweep.client()
    client.delete_model_version_tag("demo-ingredient", "1", "trial_index")
    client.delete_model_version_tag("demo-ingredient", "2", "path")
    client.set_model_version_tag("demo-ingredient", "2", "trial_index", "7")
    client.delete_model_version_tag("demo-ingredient", "3", "role")
    assert [version.trial_index for version in list_ingredients(sweep)] == []
    said = undone(sweep)
    assert said == [
        "trial 0: tags of version 1 were changed (trial_index)",
        "trial 2: tags of version 2 were changed (trial_index, path)",
        "theta0: tags of version 3 were changed (role)",
    ]
    assert [version.trial_index for version in list_ingredients(sweep)] == [None, 0, 2]


def test_what_is_not_ours_is_left_alone(sweep, rows, tmp_path):
    """A version that a person registered from our run, one that was ours, and runs of theirs."""
    client = sweep.client()
    by_hand = client.create_model_version("demo-ingredient", f"runs:/{run_of(sweep, 0)}/ingredient", run_of(sweep, 0))
    theirs = client.create_run(sweep.experiment_id, run_name="mine").info.run_id
    client.set_model_version_tag("demo-ingredient", "2", "sweep_id", "none of yours")
    old = run_of(sweep, 1)
    client.set_tag(old, "sweep_id", "none of yours")
    said = undone(sweep, rows)
    assert said == ["trial 1: its run is missing", "trial 2: its version was deleted"]
    same_ingredients(sweep, rows, tmp_path)
    assert client.get_model_version("demo-ingredient", by_hand.version).tags == {}
    assert client.get_model_version("demo-ingredient", "2").tags["sweep_id"] == "none of yours"
    assert client.get_run(old).data.tags["sweep_id"] == "none of yours"
    assert client.get_run(theirs).info.lifecycle_stage == "active"


def test_a_row_that_was_changed_by_hand_is_recorded_again(sweep, rows):
    client = sweep.client()
    client.set_tag(run_of(sweep, 0), "record", "my favourite")
    changed = read_trials(sweep)[1].model_copy(update={"val_accuracy": 1.0})
    client.set_tag(run_of(sweep, 2), "record", changed.model_dump_json())
    known = [row.model_copy(update={"model_version": number}) for row, number in zip(rows, (1, None, 2), strict=True)]
    assert undone(sweep, known) == ["trial 0: its run is missing", "trial 2: what its run says was changed"]
    assert read_trials(sweep) == known


def test_while_trials_run_what_is_deleted_is_made_again_and_the_trial_counts(sweep, recorder, tmp_path):
    client = sweep.client()
    record_trial(recorder, 1)
    recorder.begin(0, hyperparameters())
    client.delete_run(run_of(sweep, 0))
    client.delete_registered_model("demo-ingredient")
    record_trial(recorder, 0)
    assert [row.trial_index for row in read_trials(sweep)] == [0, 1]
    client.delete_experiment(sweep.experiment_id)
    record_trial(recorder, 2)
    again = opened_again(sweep)
    undone(again)
    assert [row.trial_index for row in read_trials(again)] == [0, 1, 2]
    assert [version.trial_index for version in list_ingredients(again)] == [0, 1, 2]


def test_a_deleted_experiment_is_restored_without_what_is_others(sweep, rows, tmp_path):
    client = sweep.client()
    theirs = client.create_run(sweep.experiment_id).info.run_id
    client.delete_experiment(sweep.experiment_id)
    assert find_sweep(sweep.tracking_uri, "demo").run_id == sweep.run_id
    assert sweep_changes(sweep) == ["its experiment was deleted"]
    assert opened_again(sweep) == sweep
    assert undone(sweep) == []
    same_ingredients(sweep, rows, tmp_path)
    assert client.get_run(theirs).info.lifecycle_stage == "deleted"
    client.delete_experiment(sweep.experiment_id)  # a new sweep under the name takes nothing else out of the bin
    fresh = open_sweep(sweep.tracking_uri, "demo", "sweep-2", None, {})
    assert fresh.experiment_id == sweep.experiment_id
    assert [run.info.run_id for run in client.search_runs([sweep.experiment_id])] == [fresh.run_id]


def test_a_renamed_experiment_is_gone_on_with(sweep, rows, tmp_path):
    client = sweep.client()
    client.rename_experiment(sweep.experiment_id, "my digits")
    assert opened_again(sweep) == sweep
    assert find_sweep(sweep.tracking_uri, "demo").run_id == sweep.run_id
    assert undone(sweep) == []
    same_ingredients(sweep, rows, tmp_path)
    assert client.get_experiment(sweep.experiment_id).name == "my digits"


def test_a_deleted_run_of_the_sweep_is_found_and_restored(sweep, rows):
    client = sweep.client()
    client.delete_run(sweep.run_id)
    assert find_sweep(sweep.tracking_uri, "demo").run_id == sweep.run_id
    assert sweep_changes(sweep) == ["the run of the sweep was deleted"]
    assert opened_again(sweep) == sweep
    assert sweep_changes(sweep) == []


def test_tags_of_the_run_of_the_sweep_are_set_again(sweep, rows):
    client = sweep.client()
    for key in ("role", "sweep_id", "name"):
        client.delete_tag(sweep.run_id, key)
    with pytest.raises(RegistryError, match="the experiment 'demo' is there and holds no run of a sweep"):
        find_sweep(sweep.tracking_uri, "demo")
    assert opened_again(sweep) == sweep
    assert find_sweep(sweep.tracking_uri, "demo").run_id == sweep.run_id


def test_a_run_of_the_sweep_that_is_gone_for_good_is_made_again_above_the_others(sweep, rows):
    client = sweep.client()
    delete_for_good(client, sweep.run_id)
    again = opened_again(sweep)
    assert again.run_id != sweep.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(sweep, "trial")} == {again.run_id}


@pytest.fixture
def soups(sweep, tmp_path):
    """Run ids of two soups, by alias; greedy is the champion."""
    run_ids = {}
    for number, method in enumerate(("greedy", "uniform")):
        run_ids[method] = make_soup(sweep, tmp_path, method, number)
    set_champion(sweep, "greedy", run_ids["greedy"])
    return {**run_ids, "champion": run_ids["greedy"]}


def make_soup(sweep, folder, method, number):
    path = folder / f"{method}-{number}" / "model.safetensors"
    save_weights(weights(number), path, {})
    return register_soup(sweep, soup_record(method), lineage(method), soup_model(path))


def damaged(folder, client, change):
    if change == "class names":
        file = folder / "artifacts" / "description.json"
        file.write_text(file.read_text().replace('"cat"', '"cow"'))
    elif change == "a library":
        (folder / "code" / "numpy").mkdir()
        (folder / "code" / "numpy" / "__init__.py").touch()
    elif change == "weights":
        (folder / "artifacts" / "model.safetensors").unlink()
    elif change == "lineage":
        (folder.parent / "lineage.json").unlink()
    elif change == "path":
        client.set_model_version_tag("demo-soup", "1", "path", "/elsewhere/model.safetensors")
    else:
        client.set_model_version_tag("demo-soup", "1", "served_files", "all")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("class names", "artifacts/description.json was changed"),
        ("a library", "code/numpy/__init__.py was added"),
        ("weights", "artifacts/model.safetensors is missing"),
        ("lineage", "lineage.json is missing"),
        ("path", "its tags ('path', 'served_files') do not say any more what is in "),
        ("files", "its tags ('path', 'served_files') do not say any more what is in "),
    ],
)
def test_what_is_served_otherwise_is_named_and_made_again(sweep, soups, tmp_path, change, said):
    client = sweep.client()
    folder = local_path(client.get_run(soups["greedy"]).info.artifact_uri) / "soup"
    damaged(folder, client, change)
    (line,) = file_changes(current_soups(sweep)["greedy"])
    assert line.startswith(f"soup 'greedy' (version 1): {said}")
    if change == "class names":
        with pytest.raises(RegistryError, match=r"description\.json: was changed .* give the command `run` again"):
            fetch_description(find_soup(sweep, "greedy"))
    assert make_soup(sweep, tmp_path, "greedy", 0) == soups["greedy"]
    assert file_changes(current_soups(sweep)["greedy"]) == []
    assert fetch_soup(find_soup(sweep, "greedy"), tmp_path) == folder / "artifacts" / "model.safetensors"
    assert fetch_description(find_soup(sweep, "greedy")).class_names == ["cat", "dög"]


def test_of_soups_of_older_versions_the_weights_are_known_and_nothing_else(sweep, soups):
    client = sweep.client()
    client.delete_model_version_tag("demo-soup", "1", "served_files")
    folder = local_path(client.get_run(soups["greedy"]).info.artifact_uri) / "soup"
    (folder / "served_model.py").unlink()
    assert file_changes(current_soups(sweep)["greedy"]) == []
    assert find_soup(sweep, "greedy").files is None
    (folder / "artifacts" / "model.safetensors").unlink()
    (line,) = file_changes(current_soups(sweep)["greedy"])
    assert line.endswith("model.safetensors are missing")


def test_aliases_that_were_moved_or_deleted_are_named_and_moved_back(sweep, soups):
    client = sweep.client()
    assert soup_changes(sweep) == []
    client.set_registered_model_alias("demo-soup", "production", "2")
    client.set_registered_model_alias("demo-soup", "greedy", "2")
    client.delete_registered_model_alias("demo-soup", "champion")
    foreign = client.create_model_version("demo-soup", f"runs:/{sweep.run_id}/x", sweep.run_id).version
    client.set_registered_model_alias("demo-soup", "uniform", foreign)
    said = [
        "alias 'greedy' of demo-soup was moved to version 2; it belongs to version 1",
        f"alias 'uniform' of demo-soup was moved to version {foreign}; it belongs to version 2",
        "alias 'champion' of demo-soup was deleted; it belongs to version 1",
    ]
    assert soup_changes(sweep) == said
    with pytest.raises(RegistryError, match=rf"'uniform' of demo-soup was moved to version {foreign}, which this"):
        find_soup(sweep, "uniform")
    with pytest.raises(RegistryError, match=r"has no soup 'champion'; .* deleted by hand, and the command `run`"):
        find_soup(sweep, "champion")
    assert [(soup.method, soup.version) for soup in list_soups(sweep)] == [("greedy", 1), ("uniform", 2)]
    assert point_aliases(sweep, soups) == said
    assert soup_changes(sweep) == []
    aliases = {name: str(number) for name, number in client.get_registered_model("demo-soup").aliases.items()}
    assert aliases == {"greedy": "1", "uniform": "2", "champion": "1", "production": "2"}
    assert client.get_model_version("demo-soup", foreign).tags == {}


def test_an_earlier_sweep_leaves_the_aliases_to_the_later_one(sweep, soups, tmp_path):
    time.sleep(0.01)  # runs are told apart by their time of start
    later = open_sweep(sweep.tracking_uri, "demo", "sweep-2", tmp_path / "artifacts", {})
    own = make_soup(later, tmp_path, "greedy", 5)
    assert point_aliases(sweep, soups) == []
    make_soup(sweep, tmp_path, "greedy", 6)
    assert find_soup(later, "greedy").version == 3
    assert soup_changes(later) == []
    sweep.client().delete_run(later.run_id)  # a person who puts the later sweep away has the earlier one back
    assert len(point_aliases(sweep, soups)) == 1
    assert own in {soup.run_id for soup in current_soups(later).values()}


@pytest.mark.parametrize("what", ["model", "version", "run", "tags"])
def test_a_soup_is_registered_again(sweep, soups, tmp_path, what):
    client = sweep.client()
    if what == "model":
        client.delete_registered_model("demo-soup")
    elif what == "version":
        client.delete_model_version("demo-soup", "1")
    elif what == "run":
        client.delete_run(soups["greedy"])
    else:
        client.delete_model_version_tag("demo-soup", "1", "path")
    assert any("'greedy'" in line for line in soup_changes(sweep))
    for number, method in enumerate(("greedy", "uniform")):
        assert make_soup(sweep, tmp_path, method, number) == soups[method]
    point_aliases(sweep, soups)
    assert soup_changes(sweep) == []
    assert find_soup(sweep, "greedy").figures["test_accuracy"] == 0.7
    assert len(runs(sweep, "soup")) == 2


def test_soups_of_other_settings_are_marked_and_out_of_the_way(sweep, soups, tmp_path):
    client = sweep.client()
    other = make_soup(sweep, tmp_path, "greedy", 7)
    sweep.supersede_others("soup", [other, soups["uniform"]])
    by_name = {run.info.run_name: run for run in client.search_runs([sweep.experiment_id])}
    old, below = by_name["greedy (superseded)"], by_name["superseded"]
    assert old.info.run_id == soups["greedy"]
    assert old.info.status == below.info.status == "FINISHED"
    assert old.data.tags["mlflow.parentRunId"] == below.info.run_id
    assert by_name["greedy"].info.run_id == other
    assert {method: soup.run_id for method, soup in current_soups(sweep).items()} == {
        "greedy": other, "uniform": soups["uniform"],
    }  # fmt: skip
    sweep.supersede_others("soup", [soups["greedy"], soups["uniform"]])  # the settings come back
    by_name = {run.info.run_name: run for run in client.search_runs([sweep.experiment_id])}
    assert by_name["greedy"].info.run_id == soups["greedy"]
    assert by_name["greedy"].data.tags["mlflow.parentRunId"] == sweep.run_id
    assert "superseded" not in by_name["greedy"].data.tags


def curve(*accuracies):
    return [
        CostRecord(
            method="greedy", num_ingredients=4 * number, gpu_hours=number, val_accuracy=accuracy, select_accuracy=None,
            test_accuracy=accuracy,
        )
        for number, accuracy in enumerate(accuracies, 1)
    ]  # fmt: skip


def test_another_curve_is_another_run(sweep):
    client = sweep.client()
    for points in (curve(0.5, 0.6), curve(0.5, 0.7, 0.8), curve(0.5, 0.7, 0.8)):
        log_costs(sweep, {}, points)
    new, old = {run.info.run_name: run for run in runs(sweep, "cost-accuracy")}.values()
    for run, values in ((old, [0.5, 0.6]), (new, [0.5, 0.7, 0.8])):
        history = client.get_metric_history(run.info.run_id, "test_accuracy")
        assert [(metric.step, metric.value) for metric in history] == [(4 * n, v) for n, v in enumerate(values, 1)]
    assert (old.info.run_name, new.info.run_name) == ("greedy: cost curve (superseded)", "greedy: cost curve")
    log_costs(sweep, {}, curve(0.5, 0.6))
    assert {run.info.run_name: run.info.run_id for run in runs(sweep, "cost-accuracy")}["greedy: cost curve"] == (
        old.info.run_id
    )
    assert len(client.get_metric_history(old.info.run_id, "test_accuracy")) == 2


def test_a_curve_grows_while_a_sweep_runs_and_ends_with_it(sweep):
    client = sweep.client()

    def states():
        found = {run.info.run_name: run for run in runs(sweep, "cost-accuracy")}
        histories = {name: client.get_metric_history(run.info.run_id, "test_accuracy") for name, run in found.items()}
        return {name: (found[name].info.status, len(histories[name])) for name in found}

    log_costs(sweep, {}, curve(0.5), is_complete=False)
    log_costs(sweep, {}, curve(0.5, 0.6), is_complete=False)
    assert states() == {"greedy: cost curve": ("RUNNING", 2)}
    log_costs(sweep, {}, curve(0.5, 0.6, 0.7))
    assert states() == {"greedy: cost curve": ("FINISHED", 3)}
    log_costs(sweep, {}, curve(0.5))  # as it began, and no further
    assert states() == {"greedy: cost curve": ("FINISHED", 1), "greedy: cost curve (superseded)": ("FINISHED", 3)}


def test_an_attempt_that_begins_again_adds_no_second_line_to_the_curves(sweep, recorder):
    def epochs(*numbers):
        return [
            EpochRecord(epoch=number, train_loss=1 / number, learning_rate=0.1, images_per_second=5, data_wait=0)
            for number in numbers
        ]

    recorder.log_epochs(0, epochs(1, 2, 3))
    recorder.log_epochs(0, epochs(2, 3, 4))
    history = sweep.client().get_metric_history(run_of(sweep, 0), "images_per_second")
    assert [metric.step for metric in history] == [1, 2, 3, 4]


def test_what_people_write_into_descriptions_stays(sweep):
    client = sweep.client()
    describe(sweep, "", "method  test %")
    for model, text in (("demo-soup", client.get_registered_model("demo-soup").description),):
        client.update_registered_model(model, f"Mine: {text}, for the talk")
    describe(sweep, "", "another \\1 table")
    description = client.get_registered_model("demo-soup").description
    assert description.startswith("Mine: Soups of")
    assert "```\nanother \\1 table\n```" in description
    assert "test %" not in description
    assert description.endswith(", for the talk")


def test_a_deletion_in_the_middle_is_not_taken_for_an_outage(sweep):
    with pytest.raises(RegistryError) as caught, store_errors(sweep.tracking_uri):
        sweep.client().get_run("0" * 32)
    assert "was deleted or changed by hand" in str(caught.value)
    assert "once the store is well" not in str(caught.value)


# Killed while it makes a store, as soon as its migration has begun.
_KILLED = """
import os, sys, threading, time
from pathlib import Path
from pipeline.registry import connect
path = Path(sys.argv[1])
def kill():
    partial = path.with_name(".mlflow.db.partial")
    while not (partial.exists() and partial.stat().st_size > 100_000):
        time.sleep(0.005)
    os.kill(os.getpid(), 9)
threading.Thread(target=kill).start()
connect(f"sqlite:///{path}")
"""


@pytest.mark.system
def test_a_new_store_is_made_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a folder" / "mlflow.db"
    path.parent.mkdir()
    assert subprocess.run([sys.executable, "-c", _KILLED, str(path)]).returncode == -9
    assert not path.exists()
    both = [
        subprocess.Popen([sys.executable, "-c", f"from pipeline.registry import connect; connect('sqlite:///{path}')"])
        for _ in range(2)
    ]
    assert [one.wait(timeout=300) for one in both] == [0, 0]
    assert connect(f"sqlite:///{path}").search_experiments(view_type=ViewType.ALL)
    assert {file.name for file in path.parent.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}


def test_a_store_that_another_process_left_half_made_is_named(store_uri, tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("create table _alembic_tmp_runs (id int)")
        database.execute("update alembic_version set version_num = '451aebb31d03'")
        database.commit()
    with pytest.raises(RegistryError) as caught:
        connect(store_uri)
    assert f"holds no runs yet; move {tmp_path / 'mlflow.db'} away and give the command again" in str(caught.value)


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        ("ffffffffffff", r"was made by a newer MLflow than the one here \([\d.]+\); install that version of it"),
        (
            "451aebb31d03",
            r"was made by an older MLflow than the one here .*run `mlflow db upgrade sqlite:///.*mlflow\.db`$",
        ),
    ],
)
def test_a_store_of_another_version_of_mlflow_is_told_what_helps(store_uri, tmp_path, revision, said):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("update alembic_version set version_num = ?", [revision])
        database.commit()
    with pytest.raises(RegistryError, match=said) as caught:
        connect(store_uri)
    assert len(str(caught.value).splitlines()) == 1
