import json
import os
import shutil
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient, MlflowException
from mlflow.utils.rest_utils import MlflowHostCreds, http_request
from safetensors import safe_open
from samples import hyperparameters, ingredient, model_config, served_soup

from pipeline.errors import RegistryError
from pipeline.files import file_sha256, sqlite_uri
from pipeline.records import (
    RECORDS_VERSION,
    CostRecord,
    EpochRecord,
    IngredientRecord,
    LineageRecord,
    SoupIngredient,
    SoupRecord,
    SplitRecord,
)
from pipeline.registry import (
    IngredientRecorder,
    Sweep,
    connect,
    describe,
    fetch_ingredients,
    fetch_records,
    fetch_settings,
    fetch_soup,
    find_soup,
    find_sweep,
    finish_sweep,
    list_ingredients,
    list_soups,
    log_costs,
    log_datasets,
    log_settings,
    log_soup_files,
    open_sweep,
    read_trials,
    recorded_runs,
    register_soup,
    set_champion,
    under_way,
)
from pipeline.registry.client import local_path
from pipeline.registry.ingredients import make_version
from pipeline.weights import save_weights

THETA0 = "7" * 64


@pytest.fixture
def sweep(store_uri, tmp_path):
    return open_sweep(store_uri, "demo", "sweep-1", tmp_path / "artifacts", {"seed": "3", "git_commit": "abc"})


@pytest.fixture
def recorder(sweep):
    return recorder_of(sweep)


def recorder_of(sweep):
    return IngredientRecorder(sweep, THETA0, ("cat", "dög"))


def weights(value):
    return {"w": torch.full((4,), float(value)), "steps": torch.tensor(3)}


def record_trial(recorder, index, **values):
    path, sha256 = recorder.upload(index, weights(index))
    row = ingredient(index, path=path, sha256=sha256, theta0_sha256=THETA0, **values)
    recorder.record(row)
    return row


def fail_trial(recorder, index, status="failed"):
    row = ingredient(
        index, status=status, reason="out of memory: 'x'", val_accuracy=None, select_accuracy=None, test_accuracy=None,
        sha256=None, path=None, images_seen=0, attempts=3,
    )  # fmt: skip
    recorder.record(row)
    return row


def lineage(method="greedy", settings=None):
    ingredients = [SoupIngredient(model_version=2, trial_index=0, sha256="a" * 64, coefficients=[0.25])]
    return LineageRecord(
        method=method, settings=settings or {}, seed=3, learned_on="f" * 64, layers=["model"], ingredients=ingredients
    )


def soup_record(method="greedy", **values):
    defaults = {
        "method": method, "num_ingredients": 3, "num_selected": 2, "val_accuracy": 0.9, "select_accuracy": 0.8,
        "test_accuracy": 0.7, "gpu_hours": 1.5, "construction_seconds": 2.0, "epochs": 5.0,
        "peak_memory_bytes": 1000, "peak_memory_kind": "anon",
    }  # fmt: skip
    return SoupRecord(**(defaults | values))


def soup_model(path):
    return served_soup(path, model_config(), 8, ("cat", "dög"))


def versions(sweep, model):
    return sorted(sweep.client().search_model_versions(f"name = '{model}'"), key=lambda version: int(version.version))


def runs(sweep, role):
    return sweep.client().search_runs([sweep.experiment_id], f"tags.role = '{role}'")


def cut_answer():
    """What MLflow raises where a server goes away in the middle of its answer: a real one does so here."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 412\r\n\r\n{")

        thread = threading.Thread(target=answer)
        thread.start()
        credentials = MlflowHostCreds(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(MlflowException) as caught:
            http_request(credentials, "/api/2.0/mlflow/runs/update", "POST", json={})
        thread.join()
    return caught.value


def test_a_server_that_goes_away_in_the_middle_of_its_answer_is_asked_again(sweep, recorder, monkeypatch):
    cut = cut_answer()
    path, sha256 = recorder.upload(0, weights(0))
    end, asked = MlflowClient.set_terminated, []

    def end_without_an_answer(*args, **kwargs):
        end(*args, **kwargs)
        asked.append(args)
        if len(asked) == 1:
            raise cut

    monkeypatch.setattr(MlflowClient, "set_terminated", end_without_an_answer)
    row = ingredient(0, path=path, sha256=sha256, theta0_sha256=THETA0)
    recorder.record(row)
    assert len(asked) == 2
    assert [found.val_accuracy for found in read_trials(sweep)] == [row.val_accuracy]
    assert len(list_ingredients(sweep)) == 1
    monkeypatch.setattr(MlflowClient, "set_terminated", raising(MlflowException("no such run")))
    with pytest.raises(MlflowException, match="no such run"):
        record_trial(recorder, 1)


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_upload_and_record_again_double_and_change_nothing(sweep, recorder, tmp_path):
    for _ in range(4):
        record_trial(recorder, 0)
        recorder.upload_theta0(weights(9), {"test_accuracy": 0.6, "gpu_hours": 0.01})
    assert len(versions(sweep, "demo-ingredient")) == 2
    assert len(fetch_ingredients(list_ingredients(sweep), tmp_path)) == 2
    (run,) = runs(sweep, "trial")
    (initialization,) = runs(sweep, "initialization")
    assert initialization.data.metrics == {"test_accuracy": 0.6, "gpu_hours": 0.01}
    assert len(sweep.client().get_metric_history(initialization.info.run_id, "test_accuracy")) == 1
    assert len(sweep.client().get_metric_history(run.info.run_id, "val_accuracy")) == 1
    assert len(read_trials(sweep)) == 1
    again = open_sweep(sweep.tracking_uri, "demo", "sweep-1", None, sweep.origin)
    assert again == sweep
    assert len(runs(sweep, "sweep")) == 1


def test_a_version_carries_the_columns_of_the_design_as_tags(sweep, recorder):
    row = record_trial(recorder, 4, peak_memory_bytes=5)
    (version,) = versions(sweep, "demo-ingredient")
    tags = version.tags
    assert tags["sweep_id"] == "sweep-1"
    expected = {name: value for name, value in row.model_dump().items() if value is not None}
    assert {name: tags[name] for name in expected} == {name: str(value) for name, value in expected.items()}
    # These are None.
    assert set(IngredientRecord.model_fields) - set(tags) == {"reason", "model_version", "cpu_core_hours"}
    assert version.source == f"runs:/{version.run_id}/ingredient"
    with safe_open(local_path(row.path), framework="pt") as file:
        assert file.metadata() == {
            "trial_index": "4", "theta0_sha256": THETA0, "class_names": json.dumps(["cat", "dög"]),
        }  # fmt: skip


def an_epoch(number, **values):
    return EpochRecord(epoch=number, train_loss=1 / number, learning_rate=0.1, images_per_second=50, data_wait=0.01)


def test_a_running_trial_shows_its_hyperparameters_and_epochs(sweep, recorder):
    hyper = hyperparameters()
    for _ in range(2):  # a second attempt begins again
        recorder.begin(3, hyper)
    recorder.log_epochs(3, [an_epoch(1), an_epoch(2)])
    recorder.log_epochs(3, [])
    (run,) = runs(sweep, "trial")
    assert (run.info.status, run.info.run_name) == ("RUNNING", "trial 3")
    assert run.data.params["lr"] == str(hyper.lr)
    history = sweep.client().get_metric_history(run.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    assert read_trials(sweep) == []
    record_trial(recorder, 3)
    (ended,) = runs(sweep, "trial")
    assert (ended.info.run_id, ended.info.status) == (run.info.run_id, "FINISHED")
    assert ended.info.start_time == run.info.start_time


def test_a_store_that_is_away_stops_no_trial(sweep):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = recorder_of(replace(sweep, tracking_uri=f"http://127.0.0.1:{free.getsockname()[1]}", patience=0))
    assert away.begin(0, hyperparameters()) is None
    assert away.log_epochs(0, [an_epoch(1)]) is None
    with pytest.raises(RegistryError):  # what must not be lost does not fail in silence
        away.upload(0, weights(0))


def test_a_trial_is_a_run_with_parameters_metrics_and_its_end(sweep, recorder):
    row = record_trial(recorder, 0)
    fail_trial(recorder, 1)
    finished, failed = sorted(runs(sweep, "trial"), key=lambda run: int(run.data.tags["key"]))
    assert finished.data.params["lr"] == str(row.lr)
    assert finished.data.params["augmentation"] == "minimal"
    assert finished.data.metrics["test_accuracy"] == 0.7
    assert finished.data.tags["mlflow.parentRunId"] == sweep.run_id
    assert (finished.info.status, failed.info.status) == ("FINISHED", "FAILED")
    assert "val_accuracy" not in failed.data.metrics


def test_recorded_trials_are_read_back_equal_in_search_order(sweep, recorder):
    written = [
        record_trial(recorder, 10, select_accuracy=None),
        fail_trial(recorder, 2),
        fail_trial(recorder, 3, "rejected"),
    ]
    written.append(record_trial(recorder, 1))
    rows = read_trials(sweep)
    assert [row.trial_index for row in rows] == [1, 2, 3, 10]
    numbers = {row.trial_index: row.model_version for row in rows}
    assert numbers == {1: 2, 2: None, 3: None, 10: 1}
    by_index = {row.trial_index: row for row in written}
    for row in rows:
        assert row.model_copy(update={"model_version": None}) == by_index[row.trial_index]


def test_the_weights_of_a_recorded_trial_are_not_overwritten(sweep, recorder, tmp_path):
    row = record_trial(recorder, 0)
    assert recorder.upload(0, weights(7)) == (row.path, row.sha256)
    assert fetch_ingredients(list_ingredients(sweep), tmp_path)


def test_an_uploaded_trial_that_was_not_recorded_does_not_count(sweep, recorder):
    recorder.upload(0, weights(0))
    assert read_trials(sweep) == []
    assert list_ingredients(sweep) == []


def test_a_worker_that_died_between_version_and_record_is_made_up_for(sweep, recorder, tmp_path):
    path, sha256 = recorder.upload(0, weights(0))
    row = ingredient(0, path=path, sha256=sha256, theta0_sha256=THETA0, reason=None, peak_memory_bytes=7)
    (run,) = runs(sweep, "trial")
    make_version(sweep.client(), sweep, run.info.run_id, row.model_dump())
    assert read_trials(sweep) == []
    # Again, on hardware that gives other weights: what is registered stands, and the cost of both attempts counts.
    assert recorder.upload(0, weights(1)) == (path, sha256)
    recorder.record(row.model_copy(update={"val_accuracy": 0.2, "gpu_hours": 1.25, "attempts": 2}))
    expected = row.model_copy(update={"model_version": 1, "gpu_hours": 1.25, "attempts": 2})
    assert read_trials(sweep) == [expected]
    assert len(fetch_ingredients(list_ingredients(sweep), tmp_path)) == 1


def test_two_versions_of_one_run_are_one_trial(sweep, recorder):
    """As two writers that share the run leave them, or a request that a dying server had carried out already."""
    path, sha256 = recorder.upload(0, weights(0))
    row = ingredient(0, path=path, sha256=sha256, theta0_sha256=THETA0)
    (run,) = runs(sweep, "trial")
    for _ in range(2):
        sweep.client().create_model_version(
            sweep.ingredient_model, f"runs:/{run.info.run_id}/ingredient", run.info.run_id,
            tags={name: str(value) for name, value in row.model_dump().items() if value is not None}
            | {"sweep_id": sweep.sweep_id},
        )  # fmt: skip
    recorder.record(row)
    assert [version.version for version in list_ingredients(sweep)] == [1]
    assert [row.model_version for row in read_trials(sweep)] == [1]
    assert [run.info.status for run in runs(sweep, "trial")] == ["FINISHED"]


def test_of_two_writers_of_a_trial_the_first_stays(sweep, recorder):
    client = sweep.client()
    tags = {"sweep_id": sweep.sweep_id, "role": "trial", "key": "0", "mlflow.parentRunId": sweep.run_id}
    ours, theirs = (client.create_run(sweep.experiment_id, tags=tags).info.run_id for _ in range(2))
    record_trial(recorder, 0)
    (kept,) = [run.info.run_id for run in runs(sweep, "trial") if "record" in run.data.tags]
    late = {ours, theirs} - {kept}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sweep, "child_run", lambda *args, **kwargs: next(iter(late)))
        record_trial(recorder, 0, val_accuracy=0.1)
    (version,) = versions(sweep, "demo-ingredient")
    assert version.run_id == kept
    assert [row.val_accuracy for row in read_trials(sweep)] == [0.9]
    assert [run.info.run_id for run in runs(sweep, "trial")] == [kept]


def test_only_the_versions_of_this_sweep_are_listed_theta0_first(sweep, recorder, tmp_path):
    other = open_sweep(sweep.tracking_uri, "demo", "sweep-2", tmp_path / "artifacts", {})
    record_trial(recorder_of(other), 0)
    recorder_of(other).upload_theta0(weights(8), {})
    for index in (11, 2, 5):
        record_trial(recorder, index)
    recorder.upload_theta0(weights(9), {"test_accuracy": 0.6})
    found = list_ingredients(sweep)
    assert [version.trial_index for version in found] == [None, 2, 5, 11]
    assert len(list_ingredients(other)) == 2
    assert [row.trial_index for row in read_trials(other)] == [0]
    tags = {int(v.version): v.tags for v in versions(sweep, "demo-ingredient")}
    assert tags[found[0].version]["role"] == "initialization"
    assert tags[found[0].version]["test_accuracy"] == "0.6"
    assert tags[found[0].version]["theta0_sha256"] == THETA0
    assert "role" not in tags[found[1].version]


def test_local_files_are_read_in_place(sweep, recorder, tmp_path):
    rows = [record_trial(recorder, index) for index in (0, 1)]
    paths = fetch_ingredients(list_ingredients(sweep), tmp_path / "downloads")
    assert [str(path) for path in paths] == [str(local_path(row.path)) for row in rows]
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize(
    ("damage", "said"), [("change", "was changed after it was recorded"), ("remove", "is missing")]
)
def test_a_damaged_file_names_its_version(sweep, recorder, tmp_path, damage, said):
    record_trial(recorder, 0)
    path = local_path(record_trial(recorder, 1).path)
    if damage == "change":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    with pytest.raises(RegistryError) as caught:
        fetch_ingredients(list_ingredients(sweep), tmp_path)
    message = str(caught.value)
    assert message.startswith("ingredient version 2: ")
    assert said in message
    assert len(message.splitlines()) == 1


def test_remote_files_are_downloaded_once_and_checked(sweep, recorder, tmp_path, monkeypatch):
    row = record_trial(recorder, 0)
    source, downloads = local_path(row.path), []

    def download(artifact_uri, dst_path):
        # The one thing that cannot be here: an artifact server.
        downloads.append(artifact_uri)
        return shutil.copy(source, Path(dst_path) / "model.safetensors")

    monkeypatch.setattr("pipeline.registry.ingredients.download_artifacts", download)
    (version,) = list_ingredients(sweep)
    remote = type(version)(version.version, 0, "mlflow-artifacts:/0/x/model.safetensors", version.sha256)
    first, again = (fetch_ingredients([remote], tmp_path / "cache")[0] for _ in range(2))
    assert first == again
    assert file_sha256(first) == row.sha256
    assert len(downloads) == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_soups_get_versions_aliases_and_a_champion_and_ensembles_get_none(sweep, tmp_path):
    paths = {method: tmp_path / method / "model.safetensors" for method in ("greedy", "mehl-plus")}
    for number, path in enumerate(paths.values()):
        save_weights(weights(number), path, {})
    for _ in range(2):  # the same soup again changes nothing
        settings = {"ties": "accept", "none": None}
        greedy = register_soup(sweep, soup_record("greedy"), lineage("greedy", settings), soup_model(paths["greedy"]))
        register_soup(sweep, soup_record("mehl-plus"), lineage("mehl-plus"), soup_model(paths["mehl-plus"]))
        ensemble = register_soup(sweep, soup_record("ensemble"), lineage("ensemble"), None)
    run_id = register_soup(sweep, soup_record("mehl-plus"), lineage("mehl-plus"), soup_model(paths["mehl-plus"]))
    set_champion(sweep, "mehl-plus", run_id)
    client = sweep.client()
    first, second = versions(sweep, "demo-soup")
    assert first.tags["method"] == "greedy"
    assert first.tags["sweep_id"] == "sweep-1"
    assert first.tags["test_accuracy"] == "0.7"
    aliases = client.get_registered_model("demo-soup").aliases
    assert {name: int(number) for name, number in aliases.items()} == {
        "greedy": int(first.version), "mehl-plus": int(second.version), "champion": int(second.version),
    }  # fmt: skip
    assert client.get_run(greedy).data.params == {"method": "greedy"}
    assert client.get_run(greedy).data.tags["settings.ties"] == "accept"
    assert client.get_run(ensemble).data.metrics["construction_seconds"] == 2.0
    assert len(runs(sweep, "soup")) == 3
    assert file_sha256(fetch_soup(find_soup(sweep, "mehl-plus"), tmp_path)) == file_sha256(paths["mehl-plus"])


def test_versions_tell_where_they_come_from(sweep, recorder, tmp_path):
    record_trial(recorder, 0)
    path = tmp_path / "model.safetensors"
    save_weights(weights(0), path, {})
    run_id = register_soup(sweep, soup_record(), lineage(settings={"ties": "accept"}), soup_model(path))
    (trial,), (soup,) = versions(sweep, "demo-ingredient"), versions(sweep, "demo-soup")
    for version in (trial, soup):
        assert (version.tags["seed"], version.tags["git_commit"]) == ("7" if version is trial else "3", "abc")
    assert soup.run_id == run_id
    assert json.loads(soup.tags["settings"]) == {"ties": "accept"}
    assert soup.tags["learned_on"] == "f" * 64
    (found,) = list_soups(sweep)
    assert found.lineage == lineage(settings={"ties": "accept"})
    assert (found.method, found.version) == ("greedy", int(soup.version))
    assert found.figures == {"val_accuracy": 0.9, "select_accuracy": 0.8, "test_accuracy": 0.7}
    assert fetch_soup(found, tmp_path).exists()


def test_the_splits_are_data_sets_of_the_sweep(sweep):
    splits = [
        SplitRecord(name=name, size=size, indices_sha256=name[0] * 64) for name, size in (("train", 9), ("fit", 4))
    ]
    for _ in range(2):
        log_datasets(sweep, "digits", splits)
    inputs = sweep.client().get_run(sweep.run_id).inputs.dataset_inputs
    assert {(one.dataset.name, one.dataset.profile) for one in inputs} == {
        ("demo train", '{"num_rows": 9}'), ("demo fit", '{"num_rows": 4}'),
    }  # fmt: skip
    assert json.loads(inputs[0].dataset.source)["source"] == "digits"
    assert {one.tags[0].value for one in inputs} == {"train", "fit"}


def test_the_result_stands_where_the_pages_of_mlflow_begin(sweep):
    for number in (1, 2):
        describe(sweep, f"Champion {number}.", f"method  test %\ngreedy  9{number}")
    client = sweep.client()
    pages = {
        "sweep": client.get_run(sweep.run_id).data.tags["mlflow.note.content"],
        "experiment": client.get_experiment(sweep.experiment_id).tags["mlflow.note.content"],
        "soups": client.get_registered_model("demo-soup").description,
    }
    for text in pages.values():
        assert "greedy  92" in text
        assert text.count("Champion") == text.count("greedy") == 1, "the earlier result stands there too"
    assert pages["soups"].startswith("Soups of `demo-ingredient`")
    assert 'load_model("models:/demo-soup@champion")' in pages["soups"]
    assert f"(#/experiments/{sweep.experiment_id}/runs?" in pages["experiment"]
    assert "viewStateShareKey=soups)" in pages["experiment"]


def test_views_show_the_runs_of_the_latest_sweep(sweep, tmp_path):
    client, other = sweep.client(), open_sweep(sweep.tracking_uri, "demo", "other", tmp_path, {"metric": "macro_f1"})

    def view(key):
        tag = client.get_experiment(sweep.experiment_id).tags[f"mlflow.sharedViewState.{key}"]
        return json.loads(json.loads(tag)["state"])

    client.create_run(sweep.experiment_id, tags={"role": "soup", "sweep_id": "other"})  # of another parent
    for key, role in (("soups", "soup"), ("trials", "trial"), ("cost", "cost-accuracy")):
        run_id = other.child_run(client, role, f"{role}:1", role)
        sweep.child_run(client, role, f"{role}:1", role)
        found = client.search_runs([sweep.experiment_id], view(key)["searchFilter"], order_by=[view(key)["orderByKey"]])
        assert [run.info.run_id for run in found] == [run_id]
    assert view("soups")["orderByKey"] == "metrics.`select_macro_f1`"
    assert view("cost")["compareRunCharts"][0]["metricKey"] == "test_macro_f1"


def test_a_view_that_people_changed_stays(sweep):
    client, key = sweep.client(), "mlflow.sharedViewState.soups"
    ours = client.get_experiment(sweep.experiment_id).tags[key]
    client.set_experiment_tag(sweep.experiment_id, key, mine := ours.replace("Soups by score", "Mine"))
    open_sweep(sweep.tracking_uri, "demo", sweep.sweep_id, None, {})
    assert client.get_experiment(sweep.experiment_id).tags[key] == mine


def test_the_latest_sweep_of_a_run_is_found_with_its_settings(sweep, tmp_path):
    settings = tmp_path / "config.yaml"
    settings.write_text("name: demo")
    with pytest.raises(RegistryError, match=r"^the settings of run 'demo' cannot be read"):
        fetch_settings(sweep, tmp_path / "none")
    log_settings(sweep, settings)
    time.sleep(0.01)  # runs are told apart by their time of start
    other = open_sweep(sweep.tracking_uri, "demo", "sweep-2", tmp_path / "artifacts", {"seed": "4"})
    assert find_sweep(sweep.tracking_uri, "demo").run_id == other.run_id
    assert fetch_settings(sweep, tmp_path).read_text() == "name: demo"
    with pytest.raises(RegistryError, match=r"has no run 'other'; there are: demo$"):
        find_sweep(sweep.tracking_uri, "other")


def test_a_page_is_told_where_the_runs_of_now_are(sweep, recorder):
    for index in (0, 1, 2):
        record_trial(recorder, index)
    recorder.begin(3, hyperparameters())  # no outcome yet
    client = sweep.client()
    before = recorded_runs(sweep)
    client.delete_run(before.trials[1])
    rows = [soup_record("ensemble").model_copy(update={"num_ingredients": number}) for number in (2, 3)]
    soups = [register_soup(sweep, row, lineage("ensemble"), None) for row in rows]
    sweep.supersede_others("soup", soups[1:])
    recorded = recorded_runs(sweep)
    assert recorded.soups == {"ensemble": soups[1]}
    assert recorded.trials == {index: before.trials[index] for index in (0, 2)}
    assert recorded.experiment_id == sweep.experiment_id
    assert {index: client.get_run(run_id).info.run_name for index, run_id in recorded.trials.items()} == {
        0: "trial 0",
        2: "trial 2",
    }


def test_another_soup_of_a_method_is_a_new_version_and_takes_the_alias(sweep, tmp_path):
    for number in range(2):
        path = tmp_path / str(number) / "model.safetensors"
        save_weights(weights(number), path, {})
        register_soup(sweep, soup_record(), lineage(), soup_model(path))
    assert len(versions(sweep, "demo-soup")) == 2
    assert int(sweep.client().get_model_version_by_alias("demo-soup", "greedy").version) == 2
    assert file_sha256(fetch_soup(find_soup(sweep, "greedy"), tmp_path)) == file_sha256(path)


def test_a_soup_of_an_earlier_sweep_is_not_found(sweep, tmp_path):
    save_weights(weights(1), tmp_path / "model.safetensors", {})
    register_soup(sweep, soup_record(), lineage(), soup_model(tmp_path / "model.safetensors"))
    assert find_soup(sweep, "greedy").version == 1
    later = open_sweep(sweep.tracking_uri, "demo", "sweep-2", tmp_path / "artifacts", {})
    with pytest.raises(RegistryError, match="the latest sweep of run 'demo' has no soup 'greedy' yet"):
        find_soup(later, "greedy")
    with pytest.raises(RegistryError, match="has no soup 'hl'; there are: greedy"):
        find_soup(sweep, "hl")


def test_the_cost_curve_has_accuracy_and_hours_at_the_same_step(sweep):
    def point(method, n, hours):
        return CostRecord(
            method=method,
            num_ingredients=n,
            gpu_hours=hours,
            val_accuracy=n / 10,
            select_accuracy=None,
            test_accuracy=0.5,
        )

    points = [point("greedy", 4, 1.5), point("greedy", 8, 3.5), point("mehl-plus", 4, 1.5)]
    points.append(point("greedy", 4, 9.9).model_copy(update={"order_seed": 1}))  # of the table alone
    for _ in range(2):
        log_costs(sweep, {}, points)
    found = {run.data.tags["key"].partition(":")[0]: run.info.run_id for run in runs(sweep, "cost-accuracy")}
    assert set(found) == {"greedy", "mehl-plus"}
    client = sweep.client()
    for key, values in (("gpu_hours", [1.5, 3.5]), ("val_accuracy", [0.4, 0.8])):
        history = client.get_metric_history(found["greedy"], key)
        assert sorted((metric.step, metric.value) for metric in history) == list(zip([4, 8], values, strict=True))
    assert client.get_metric_history(found["greedy"], "select_accuracy") == []


def test_files_stay_with_their_run(sweep, tmp_path):
    path = tmp_path / "soup" / "model.safetensors"
    save_weights(weights(0), path, {})
    run_id = register_soup(sweep, soup_record(), lineage(), soup_model(path))
    tables = [tmp_path / folder / "greedy.parquet" for folder in ("coefficients", "predictions")]
    figure = tmp_path / "figures" / "a.png"
    for file in (*tables, figure):
        file.parent.mkdir()
        file.write_bytes(b"x")
    log_soup_files(sweep, run_id, tables)
    for accuracy in (0.9, 0.8):  # a report made again shows what it is now
        time.sleep(0.002)
        metrics = {"test_accuracy": accuracy, "select_accuracy": None}
        finish_sweep(sweep, [figure, tables[0]], {"champion": "greedy"}, metrics)
    client = sweep.client()
    assert {item.path for item in client.list_artifacts(run_id)} == {
        "soup", "lineage.json", "coefficients", "predictions",
    }  # fmt: skip
    for folder in ("coefficients", "predictions"):
        assert [item.path for item in client.list_artifacts(run_id, folder)] == [f"{folder}/greedy.parquet"]
    assert {item.path for item in client.list_artifacts(sweep.run_id, "figures")} == {"figures/a.png"}
    assert client.get_run(sweep.run_id).data.tags["champion"] == "greedy"
    assert client.get_run(sweep.run_id).data.metrics == {"test_accuracy": 0.8}
    assert client.get_run(sweep.run_id).info.status == "FINISHED"


def test_the_run_of_a_sweep_says_what_became_of_the_command(sweep):
    def status():
        return sweep.client().get_run(sweep.run_id).info.status

    with under_way(sweep):
        assert status() == "RUNNING"
    assert status() == "FINISHED"

    def ended_by(error):
        with under_way(sweep):
            assert status() == "RUNNING", "a sweep that goes on runs again"
            raise error

    for error, became in ((RegistryError("the store failed"), "FAILED"), (KeyboardInterrupt(), "KILLED")):
        with pytest.raises(type(error)):
            ended_by(error)
        assert status() == became


def test_records_come_with_the_report(sweep, tmp_path):
    with pytest.raises(RegistryError, match="has no records of run 'demo' yet: they come with its report"):
        fetch_records(sweep, tmp_path)


@pytest.fixture
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def unreachable(uri):
    start = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        connect(uri)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("registry.tracking_uri: the MLflow store ")
    assert "start the server or correct the setting" in message
    assert "s3cret" not in message
    return message, time.monotonic() - start


def test_a_server_that_is_not_there_is_one_line_soon_and_without_password(closed_port):
    message, seconds = unreachable(f"http://me:s3cret@127.0.0.1:{closed_port}")
    assert f"http://127.0.0.1:{closed_port} cannot be reached" in message
    assert seconds < 30


@pytest.mark.system
def test_a_server_that_never_answers_is_given_up_within_30_seconds(closed_port):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        _, seconds = unreachable(f"http://me:s3cret@127.0.0.1:{silent.getsockname()[1]}")
    assert seconds < 30


@pytest.mark.parametrize(
    "uri", ["postgresql://me:s3cret@127.0.0.1:1/db", "ftp://me:s3cret@host/x", "sqlite:////dev/null/mlflow.db"]
)
def test_a_store_that_cannot_be_is_one_line(uri):
    unreachable(uri)


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, but longer than a page header " * 10)
    unreachable(f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_connecting_takes_no_patience_from_other_threads(closed_port):
    def patience():
        return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_HTTP_REQUEST")}

    before, during = patience(), []
    waiting = threading.Thread(target=unreachable, args=(f"http://127.0.0.1:{closed_port}",))
    waiting.start()
    while waiting.is_alive():
        during.append(patience())
        waiting.join(0.05)
    assert all(now == before for now in during)


def test_a_new_database_is_made_with_its_folder_whatever_that_is_called(tmp_path):
    path = tmp_path / "new" / "ü %41#b?c d" / "mlflow.db"
    connect(sqlite_uri(path))
    assert path.exists()
    assert [entry.name for entry in tmp_path.rglob("mlflow.db")] == ["mlflow.db"]


def test_a_sweep_of_a_newer_program_is_refused_in_a_line(sweep, store_uri):
    assert find_sweep(store_uri, sweep.name).sweep_id == sweep.sweep_id
    client = sweep.client()
    assert client.get_run(sweep.run_id).data.tags["records_version"] == str(RECORDS_VERSION)
    client.delete_tag(sweep.run_id, "records_version")  # as the first version had it
    assert find_sweep(store_uri, sweep.name).sweep_id == sweep.sweep_id
    client.set_tag(sweep.run_id, "records_version", str(RECORDS_VERSION + 1))
    for ask in (
        lambda: find_sweep(store_uri, sweep.name),
        lambda: open_sweep(store_uri, sweep.name, sweep.sweep_id, None, {}),
    ):
        with pytest.raises(RegistryError, match=rf"version {RECORDS_VERSION + 1}, and this program knows") as caught:
            ask()
        assert len(str(caught.value).splitlines()) == 1
