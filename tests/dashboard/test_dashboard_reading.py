"""What the registry says of sweeps to those who only look."""

import logging
import sqlite3
import subprocess
import sys

import pytest
from made_registry import RULE
from mlflow.entities import Metric
from report_records import an_ingredient

from pipeline.dashboard import Reader, make_app
from pipeline.dashboard import reader as reader_module
from pipeline.errors import RegistryError
from pipeline.records import RECORDS_VERSION
from pipeline.registry import find_sweep, list_sweeps, look, open_sweep
from pipeline.registry.ingredients import log_row


def sweep_of(uri, name):
    return next(sweep for sweep in list_sweeps(uri) if sweep.name == name)


def dump(home):
    with sqlite3.connect(home / "mlflow.db") as database:
        return list(database.iterdump())


def test_all_sweeps_are_listed_the_latest_first(made):
    digits, cifar = list_sweeps(made.uri)
    assert (digits.name, digits.status, digits.is_running, digits.ended) == ("digits", "RUNNING", True, None)
    assert (cifar.name, cifar.is_running, cifar.origin["champion"]) == ("cifar", False, "mehl-plus")
    assert cifar.ended >= cifar.started
    assert digits.sizes == {"pretrain": 300, "train": 500, "fit": 400, "select": 100, "test": 497}


def test_a_sweep_that_runs(made):
    read = look(sweep_of(made.uri, "digits"))
    assert [row.trial_index for row in read.trials.values()] == list(range(18))
    assert {row.status for row in read.trials.values()} == {"finished", "failed", "rejected"}
    assert [trial.trial_index for trial in read.running] == [18, 19]
    assert [trial.train_loss for trial in read.running] == [0.7, None]
    assert read.running[0].hyperparameters["lr"] == 1e-3
    assert read.running[0].hyperparameters["augmentation"] == "minimal"
    assert read.setting("search", "stop") == RULE
    assert read.setting("search", "stop", "min_gain") == RULE["min_gain"]
    assert read.setting("no", "such") is None
    assert read.unit == "CPU core hours"
    assert read.soups == ()


def test_its_curves_begin_at_the_starting_point_and_have_what_is_known_of_gains(made):
    curves = {curve.method: curve.points for curve in look(sweep_of(made.uri, "digits")).curves}
    assert set(curves) == {"greedy", "mehl-plus"}
    start, first, second, *_ = curves["greedy"]
    assert (start.num_ingredients, start.gpu_hours, start.select_accuracy) == (0, 0, 0.62)
    assert (first.num_ingredients, first.select_gain_low) == (4, None)
    assert (second.num_ingredients, second.select_gain_low, second.select_gain_high) == (8, -0.01, 0.03)
    assert [point.num_ingredients for point in curves["mehl-plus"]] == [0, 4, 8, 12, 16]


def test_soups_and_the_names_of_methods(made):
    read = look(sweep_of(made.uri, "cifar"))
    soups = {soup.method: soup for soup in read.soups}
    assert soups["mehl-plus"].scores == {"val": 0.9775, "select": 0.97, "test": 0.9557}
    assert soups["greedy"].figures["num_selected"] == 5
    assert read.labels["mehl-plus"] == "MEHL-Soup+"


def test_a_point_that_is_not_whole_and_a_superseded_curve_are_left_out(registry):
    sweep = find_sweep(registry.uri, "digits")
    client = sweep.client()
    greedy, mehl = sorted(sweep.runs(client, "tags.role = 'cost-accuracy'"), key=lambda run: run.data.tags["key"])
    client.log_batch(
        greedy.info.run_id, metrics=[Metric("gpu_hours", 1.0, 20, 20), Metric("val_accuracy", 0.9, 20, 20)]
    )
    client.set_tag(mehl.info.run_id, "superseded", "true")
    (curve,) = look(sweep_of(registry.uri, "digits")).curves
    assert (curve.method, curve.points[-1].num_ingredients) == ("greedy", 16)


def test_read_again_it_is_as_read_anew(registry):
    before = look(sweep_of(registry.uri, "digits"))
    assert look(before.sweep, before) == before
    sweep = find_sweep(registry.uri, "digits")
    client = sweep.client()
    log_row(sweep, client, sweep.child_run(client, "trial", "18", "trial 18"), an_ingredient(18), {})
    for curve in before.curves:
        values = {"gpu_hours": 0.04, "val_accuracy": 0.97, "select_accuracy": 0.96, "test_accuracy": 0.95}
        client.log_batch(curve.run_id, metrics=[Metric(name, value, 17, 17) for name, value in values.items()])
    again = look(before.sweep, before)
    assert [trial.trial_index for trial in again.running] == [19]
    assert again.trials.keys() - before.trials.keys() == {before.running[0].run_id}
    assert [curve.points[-1].num_ingredients for curve in again.curves] == [17, 17]
    assert again == look(before.sweep)


def test_what_another_metric_decides(store_uri, tmp_path):
    sweep = open_sweep(store_uri, "pairs", "sweep-1", tmp_path / "artifacts", {"metric": "f1"})
    client = sweep.client()
    run_id = sweep.child_run(client, "cost-accuracy", "greedy:x", "greedy: cost curve")
    values = {"gpu_hours": 1.0, "val_accuracy": 0.7, "test_accuracy": 0.7, "test_f1": 0.5, "val_f1": 0.6}
    client.log_batch(run_id, metrics=[Metric(name, value, 4, 4) for name, value in values.items()])
    ((point,),) = (curve.points for curve in look(sweep_of(store_uri, "pairs")).curves)
    assert (point.test_accuracy, point.test_score, point.select_score) == (0.7, 0.5, None)


def test_a_sweep_of_a_newer_program_is_named_and_not_read(registry):
    sweep = find_sweep(registry.uri, "digits")
    sweep.client().set_tag(sweep.run_id, "records_version", str(RECORDS_VERSION + 1))
    reader = Reader(registry.uri)
    reader.first()
    state = reader.state(["sweep-0", "sweep-1"])
    assert set(state.looks) == {"sweep-0"}
    assert state.away is None
    assert "newer program" in next(one.unreadable for one in state.sweeps if one.name == "digits")


def test_nothing_is_written(registry):
    before = dump(registry.home)
    reader = Reader(registry.uri)
    reader.first()
    app = make_app(reader)
    client = app.server.test_client()
    assert client.get("/", headers={"Host": "localhost"}).status_code == 200
    assert client.get("/csv/trials?sweep=sweep-0&sweep=sweep-1", headers={"Host": "localhost"}).status_code == 200
    assert dump(registry.home) == before


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(RegistryError, match="there is no"):
        list_sweeps(f"sqlite:///{tmp_path / 'no.db'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("statement", [None, "create table recipes (name text)"], ids=["empty", "of somebody else"])
def test_a_database_that_is_no_store_is_not_made_one(tmp_path, statement):
    path = tmp_path / "other.db"
    path.touch()
    if statement:
        with sqlite3.connect(path) as database:
            database.execute(statement)
    before = path.read_bytes()
    with pytest.raises(RegistryError, match=r"other.db is no store of MLflow"):
        list_sweeps(f"sqlite:///{path}")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_registry_that_goes_away_and_comes_back(registry, monkeypatch, caplog):
    monkeypatch.setattr(reader_module, "_PAUSE", 0.0)
    monkeypatch.setattr(reader_module, "_SHARE", 0.0)
    caplog.set_level(logging.INFO, "pipeline")
    reader = Reader(registry.uri)
    reader.first()
    known = reader.state(["sweep-1"])
    database = registry.home / "mlflow.db"
    database.rename(registry.home / "away.db")
    for _ in range(3):
        state = reader.state(["sweep-1"], anew=True)
        assert "there is no" in state.away
        assert (state.looks, state.read) == (known.looks, known.read)
    assert not database.exists()
    assert len(caplog.messages) == 1
    (registry.home / "away.db").rename(database)
    state = reader.state(["sweep-1"], anew=True)
    assert state.away is None
    assert state.read > known.read
    assert state.stamps == known.stamps
    assert caplog.messages[1:] == ["the registry answers again"]


def test_only_what_is_chosen_and_runs_is_read_again(registry, monkeypatch):
    monkeypatch.setattr(reader_module, "_PAUSE", 0.0)
    monkeypatch.setattr(reader_module, "_SHARE", 0.0)
    asked = []

    def counted(sweep, before):
        asked.append(sweep.name)
        return look(sweep, before)

    monkeypatch.setattr(reader_module, "look", counted)
    reader = Reader(registry.uri)
    reader.first()
    assert asked == ["digits"], "the latest alone"
    reader.state(["sweep-1"])
    assert asked == ["digits"], "who opens a page does not wait for it"
    reader.state(["sweep-0"])
    reader.state(["sweep-0"], anew=True)
    assert asked == ["digits", "cifar"], "one that has ended is read once"
    reader.state(["sweep-1"], anew=True)
    assert asked == ["digits", "cifar", "digits"]


def test_what_is_asked_for_often_is_read_once(registry, monkeypatch):
    monkeypatch.setattr(reader_module, "_PAUSE", 1000.0)
    reader = Reader(registry.uri)
    reader.first()
    reader.state(["sweep-1"], anew=True)
    sweep = find_sweep(registry.uri, "digits")
    sweep.client().set_terminated(sweep.run_id)
    assert reader.state(["sweep-1"], anew=True).looks["sweep-1"].sweep.is_running
    state = reader.state(["sweep-1", "sweep-0"])  # one that was never read is waited for
    assert not state.looks["sweep-1"].sweep.is_running
    assert set(state.looks) == {"sweep-0", "sweep-1"}


def test_it_needs_neither_torch_nor_ray():
    code = "import sys, pipeline.dashboard; print({'torch', 'ray', 'matplotlib'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
