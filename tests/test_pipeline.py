"""The whole line on a few digits: real trials in Ray, a real MLflow store, every record read back."""

import dataclasses
import functools
import io
import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import numpy as np
import open_clip
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from pipeline.commands import main, run
from pipeline.commands.common import known_names
from pipeline.commands.verify import verify
from pipeline.config import Config, load_config
from pipeline.data import load_splits
from pipeline.errors import ConfigError, RegistryError, SearchError, SoupError
from pipeline.evaluation import accuracy, predict
from pipeline.models import build_classifier
from pipeline.records import (
    CoefficientRecord,
    ComparisonRecord,
    CostRatioRecord,
    CostRecord,
    IngredientRecord,
    PredictionRecord,
    RunRecord,
    SimilarityRecord,
    SoupRecord,
    VariantRecord,
    cumulative_gpu_hours,
)
from pipeline.records.tables import read_table
from pipeline.registry import connect, find_sweep, list_ingredients, list_soups
from pipeline.registry.client import local_path
from pipeline.soup_requests import RequestedIngredient
from pipeline.soup_task import build_soups
from pipeline.soups import IngredientSet, soup_from_coefficients
from pipeline.stages import running
from pipeline.stages.building import soup_context
from pipeline.stages.state import all_stages, open_state
from pipeline.stages.study import study_inputs
from pipeline.studies import STUDIES
from pipeline.weights import read_weights, weights_sha256

MODELS = ["best-individual", "uniform", "greedy", "mehl", "mehl-plus"]
METHODS = [*MODELS, "ensemble"]
SETTINGS = """
name: digits-tiny
seed: 9
output: {folder}/run
data:
  {{source: digits, image_size: 16, store: {folder}/prepared, train_size: 200, validation_size: 200, test_size: 150,
    shifts: {{inverted: {folder}/inverted.parquet}}}}
model:
  backbone: open_clip
  architecture:
    {{embed_dim: 16, vision_cfg: {{image_size: 16, patch_size: 4, width: 16, layers: 1, head_width: 8}}}}
search:
  num_trials: 5
  distributions:  # one in three diverges
    {{lr: {{choice: [3.0e-3, 1.0e-2, 1.0e+30]}}, epochs: {{randint: [1, 3]}}, batch_size: 50, augmentation: minimal}}
soup:
  settings: {{mehl: {{inner_iterations: 4}}, mehl-plus: {{inner_iterations: 4, block_size: 2}}}}
study:
  cost_accuracy: {{methods: [greedy, uniform], step: 2, orders: 1}}
  elimination: {{methods: [uniform], top: [1]}}
  ablation: {{mehl-plus: {{block_size: [1], seed: [5]}}}}
  wise_ft: {{methods: [uniform], alphas: [0, 0.5, 1]}}
registry: {{tracking_uri: "sqlite:///{folder}/mlflow.db"}}
"""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run: the folder that it is repeated in, and a copy of the outputs and the database to look at."""

    folder: Path

    @property
    def live(self) -> Path:
        return self.folder / "run"

    @property
    def output(self) -> Path:
        return self.folder / "kept" / "run"

    def config(self, *overrides) -> Config:
        return load_config(self.folder / "config.yaml", overrides, known_names)

    def record(self) -> RunRecord:
        return RunRecord.model_validate_json((self.output / "run.json").read_text())

    def trials(self) -> list[IngredientRecord]:
        return read_table(self.output / "ingredients.parquet", IngredientRecord)

    def ingredients(self) -> list[IngredientRecord]:
        return [row for row in self.trials() if row.status == "finished"]

    def soups(self) -> dict[str, SoupRecord]:
        return {row.method: row for row in read_table(self.output / "soups.parquet", SoupRecord)}

    def restore(self) -> None:
        shutil.rmtree(self.live)
        shutil.copytree(self.output, self.live)
        copy_database(self.folder / "kept" / "mlflow.db", self.folder / "mlflow.db")


def write_inverted_digits(path: Path, count: int) -> None:
    digits, encoded = load_digits(), []
    for image in digits.images[:count]:
        buffer = io.BytesIO()
        Image.fromarray((255 - image * 15).astype(np.uint8)).convert("RGB").save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({"image": encoded, "label": digits.target[:count].tolist()}), path)


def copy_database(source: Path, target: Path) -> None:
    # As SQLite copies: MLflow holds connections open.
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


@pytest.fixture(scope="module")
def finished(session_ray, migrated_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    shutil.copy(migrated_store, folder / "mlflow.db")
    (folder / "config.yaml").write_text(SETTINGS.format(folder=folder))
    write_inverted_digits(folder / "inverted.parquet", 60)
    done = Finished(folder)
    run.run_stages(done.config(), all_stages(), fresh=False)
    shutil.copytree(done.live, done.output)
    copy_database(folder / "mlflow.db", folder / "kept" / "mlflow.db")
    return done


@pytest.fixture
def again(finished):
    """Repeats the run as it was finished, with other settings."""
    finished.restore()

    def again(*overrides, only=None):
        run.run_stages(finished.config(*overrides), only or all_stages(), fresh=False)

    return again


@pytest.fixture(scope="module")
def splits(finished):
    config = finished.config()
    return load_splits(config.data, config.seed)


def client_of(finished):
    return connect(str(finished.config().registry.tracking_uri))


def open_ingredients(finished) -> IngredientSet:
    return IngredientSet.open([local_path(row.path) for row in finished.ingredients()])


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("ingredients.parquet", IngredientRecord),
        ("soups.parquet", SoupRecord),
        ("cost_accuracy.parquet", CostRecord),
        ("cost_ratios.parquet", CostRatioRecord),
        ("comparisons.parquet", ComparisonRecord),
        ("similarity.parquet", SimilarityRecord),
        *[(f"{study}.parquet", VariantRecord) for study in ("elimination", "ablation", "wise_ft")],
        *[(f"coefficients/{method}.parquet", CoefficientRecord) for method in MODELS],
        *[(f"predictions/{method}.parquet", PredictionRecord) for method in METHODS],
    ],
)
def test_tables_have_the_columns_of_the_design(finished, file, kind):
    path = finished.output / file
    names = pq.read_schema(path).names
    assert [name for name in names if not name.endswith("_accuracy") or name in kind.model_fields] == [
        *kind.model_fields,
        *kind.extra_columns,
    ]
    assert read_table(path, kind)


def test_every_file_of_the_design_is_there_and_nothing_unfinished(finished):
    files = {str(path.relative_to(finished.output)) for path in finished.output.rglob("*") if path.is_file()}
    expected = {"config.yaml", "state.json", "run.json", "theta0.safetensors", "report.html"}
    expected |= {"ingredients.parquet", "soups.parquet", "cost_accuracy.parquet", "comparisons.parquet"}
    expected |= {f"figures/{name}.{form}" for name in ("cost_accuracy", "ingredients") for form in ("png", "svg")}
    expected |= {
        f"{kind}/{method}.{form}"
        for method in MODELS
        for kind, form in (("coefficients", "parquet"), ("soups", "safetensors"))
    }
    expected |= {f"predictions/{method}.parquet" for method in METHODS}
    assert expected <= files
    assert not [file for file in files if "partial" in file or "trials/" in file or "ensemble.safetensors" in file]


def test_the_report_opens_without_a_network(finished):
    page = (finished.output / "report.html").read_text()
    assert all(word in page for word in ("Greedy", "CPU core hours"))
    assert 'src="http' not in page
    assert "url(http" not in page


def test_every_trial_is_a_row_in_search_order(finished):
    rows = finished.trials()
    assert [row.trial_index for row in rows] == list(range(5))
    assert {row.status for row in rows} == {"finished", "rejected"}
    assert len(finished.ingredients()) >= 3
    for row in rows:
        assert (row.device, row.attempts, row.theta0_sha256) == ("cpu", 1, finished.record().theta0_sha256)
        assert (row.status == "rejected") == (row.lr == 1e30)
        if row.status == "finished":
            assert row.images_seen == 200 * row.epochs
            assert row.model_version is not None


def test_ingredients_are_what_their_rows_say(finished, splits):
    config = finished.config()
    for row in finished.ingredients():
        path = local_path(row.path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        assert metadata["theta0_sha256"] == row.theta0_sha256
        assert json.loads(metadata["class_names"]) == list(splits.class_names)
        model = build_classifier(config.model, 10)
        model.load_state_dict(load_file(path))
        for split, measured in (
            ("fit", row.val_accuracy),
            ("select", row.select_accuracy),
            ("test", row.test_accuracy),
        ):
            images, labels = getattr(splits, split).tensors()
            assert accuracy(predict(model, images, "cpu"), labels) == pytest.approx(measured)


def test_theta0_is_recorded_by_its_hash(finished):
    record = finished.record()
    assert weights_sha256(read_weights(finished.output / "theta0.safetensors")) == record.theta0_sha256
    assert record.theta0_gpu_hours > 0
    sizes = {split.name: split.size for split in record.splits}
    assert sizes == {"train": 200, "fit": 160, "select": 40, "test": 150, "inverted": 60}


@pytest.mark.parametrize("method", MODELS)
def test_the_coefficients_give_the_soup_bit_for_bit(finished, method):
    rows = read_table(finished.output / "coefficients" / f"{method}.parquet", CoefficientRecord)
    layers = tuple(dict.fromkeys(row.layer for row in rows))
    trials = [row.trial_index for row in finished.ingredients()]
    table = {(row.trial_index, row.layer): row.coefficient for row in rows}
    assert len(table) == len(rows) == len(trials) * len(layers)
    coefficients = torch.tensor([[table[trial, layer] for layer in layers] for trial in trials], dtype=torch.float64)
    torch.testing.assert_close(coefficients.sum(0), torch.ones(len(layers), dtype=torch.float64))
    rebuilt = soup_from_coefficients(open_ingredients(finished), coefficients, layers)
    stored = load_file(finished.output / "soups" / f"{method}.safetensors")
    assert stored.keys() == rebuilt.keys()
    for name, value in stored.items():
        assert torch.equal(value, rebuilt[name]), name
    assert (len(layers) > 1) == (method == "mehl-plus")


@pytest.mark.parametrize("method", METHODS)
def test_the_predictions_give_the_recorded_accuracies(finished, splits, method):
    rows = read_table(finished.output / "predictions" / f"{method}.parquet", PredictionRecord)
    record = finished.soups()[method]
    for split, measured in (
        ("fit", record.val_accuracy),
        ("select", record.select_accuracy),
        ("test", record.test_accuracy),
        ("inverted", record.shift_accuracies["inverted"]),
    ):
        part = [row for row in rows if row.split == split]
        assert [row.image_index for row in part] == list(range(len(part)))
        assert [row.label for row in part] == splits.measured()[split].labels.tolist()
        assert sum(row.label == row.prediction for row in part) / len(part) == pytest.approx(measured)


def test_the_soups_predict_what_is_recorded(finished, splits):
    images = splits.test.tensors()[0]
    config, total = finished.config(), 0
    model = build_classifier(config.model, 10)
    expected = {}
    for method in MODELS:
        model.load_state_dict(load_file(finished.output / "soups" / f"{method}.safetensors"))
        expected[method] = predict(model, images, "cpu").argmax(1).tolist()
    for row in finished.ingredients():
        model.load_state_dict(load_file(local_path(row.path)))
        total = total + predict(model, images, "cpu")
    expected["ensemble"] = total.argmax(1).tolist()
    for method, predictions in expected.items():
        rows = read_table(finished.output / "predictions" / f"{method}.parquet", PredictionRecord)
        assert [row.prediction for row in rows if row.split == "test"] == predictions


def test_rows_of_the_soups_carry_cost_time_and_memory(finished):
    soups, trials = finished.soups(), finished.trials()
    assert list(soups) == METHODS
    count = len(finished.ingredients())
    for row in soups.values():
        assert row.num_ingredients == count
        assert row.gpu_hours == pytest.approx(cumulative_gpu_hours(trials, count))
        assert 1 <= row.num_selected <= count
        assert row.peak_memory_kind == "anon"
        assert row.construction_seconds > 0
    assert soups["best-individual"].num_selected == 1
    assert soups["uniform"].num_selected == soups["ensemble"].num_selected == count
    best = max(row.val_accuracy for row in finished.ingredients())
    assert soups["best-individual"].val_accuracy == pytest.approx(best)
    assert soups["greedy"].val_accuracy >= best


def test_the_champion_is_the_best_model_on_select(finished):
    soups = finished.soups()
    champion = soups[finished.record().champion]
    assert champion.method in MODELS  # an ensemble is no model
    assert champion.select_accuracy == max(soups[method].select_accuracy for method in MODELS)


def test_the_curve_ends_at_the_soups_and_its_cost_counts_rejected_trials(finished):
    points = read_table(finished.output / "cost_accuracy.parquet", CostRecord)
    trials, count = finished.trials(), len(finished.ingredients())
    sizes = [*range(2, count, 2), count]
    assert [(point.method, point.order_seed, point.num_ingredients) for point in points] == [
        (method, order, size) for method in ("greedy", "uniform") for order in (None, 1) for size in sizes
    ]
    for point in points[: len(sizes)] + points[2 * len(sizes) : 3 * len(sizes)]:
        assert point.gpu_hours == pytest.approx(cumulative_gpu_hours(trials, point.num_ingredients))
        if point.num_ingredients == count:
            soup = finished.soups()[point.method]
            assert (point.val_accuracy, point.test_accuracy) == (soup.val_accuracy, soup.test_accuracy)


def test_variants_are_measured_and_the_default_ones_are_the_soups_that_were_there(finished, splits):
    soups, labels = finished.soups(), splits.test.labels
    for study in ("elimination", "ablation", "wise_ft"):
        rows = read_table(finished.output / f"{study}.parquet", VariantRecord)
        for row in rows:
            predicted = read_table(finished.output / row.predictions, PredictionRecord)
            right = [one.prediction == one.label for one in predicted if one.split == "test"]
            assert len(right) == len(labels)
            assert np.mean(right) == pytest.approx(row.test_accuracy)
            if row.is_default:
                assert row.test_accuracy == soups[row.method].test_accuracy
                assert (row.predictions == f"predictions/{row.method}.parquet") == (study != "wise_ft")
    values = [(row.setting, row.value) for row in read_table(finished.output / "ablation.parquet", VariantRecord)]
    assert values == [("block_size", "2"), ("block_size", "1"), ("seed", "9"), ("seed", "5")]


def test_the_line_starts_at_theta0(finished):
    start, half, end = read_table(finished.output / "wise_ft.parquet", VariantRecord)
    assert start.test_accuracy == pytest.approx(finished.record().theta0_test_accuracy)
    assert [one.value for one in (start, half, end)] == ["0.0", "0.5", "1.0"]


def test_every_pair_of_ingredients_has_cosines(finished):
    rows = read_table(finished.output / "similarity.parquet", SimilarityRecord)
    count = len(finished.ingredients())
    assert len(rows) == count * (count - 1) // 2
    weights, from_theta0, from_mean = (
        np.mean([getattr(row, name) for row in rows]) for name in ("weights", "from_theta0", "from_mean")
    )
    assert 1 > weights > from_theta0 > from_mean


def test_one_study_can_be_run_alone_and_builds_only_what_is_new(finished, again):
    before = contents(finished.live)
    again("study.elimination.top=[1, 2]", only=["elimination"])
    after = contents(finished.live)
    new = {path for path in after if after[path] != before.get(path)}
    assert new == {
        "config.yaml", "state.json", "elimination.parquet", "predictions/elimination/uniform/eliminated=2.parquet",
    }  # fmt: skip


def test_several_tasks_build_the_same_soups_side_by_side(finished, again):
    again()
    config = finished.config()
    state, _ = open_state(config, fresh=False)
    made = running.open_run(config, state)
    rows = made.ingredients()
    context = soup_context(made, rows, None)
    requests = {method: study_inputs(made).whole_sweep(method) for method in ("uniform", "greedy", "mehl")}
    one = dict(build_soups(context, requests, cpus=1))
    two = dict(build_soups(context, requests, cpus=1, tasks=2))
    assert set(one) == set(two) == set(requests)
    for method in requests:
        assert two[method].record.method == method
        assert two[method].predictions == one[method].predictions
    lost = dataclasses.replace(requests["uniform"], ingredients=(RequestedIngredient(99, None),))
    with pytest.raises(SoupError, match="the registry has no ingredient of trial 99"):
        list(build_soups(context, {"mehl": requests["mehl"], "lost": lost}, cpus=1, tasks=2))
    killed = dataclasses.replace(context, build_model=functools.partial(os._exit, 1))
    with pytest.raises(SoupError, match=r"^a soup task was lost \(.*give the same command again"):
        list(build_soups(killed, requests, cpus=1))


def test_an_ensemble_lies_on_no_line(finished, again, caplog):
    caplog.set_level("INFO", "pipeline")
    again("study.wise_ft.methods=[ensemble]", only=["wise-ft"])
    assert "study: wise-ft: left out: 'ensemble' is an ensemble, which has no weights" in caplog.messages
    assert read_table(finished.live / "wise_ft.parquet", VariantRecord) == []


def test_a_report_follows_whatever_came_after_it(finished, again):
    again("soup.methods=[uniform, mehl]", only=["soup", "report"])
    assert "has not been computed yet" in (finished.live / "report.html").read_text()  # not that of other soups
    again("soup.methods=[uniform, mehl]", only=[*STUDIES, "report"])
    assert "has not been computed yet" not in (finished.live / "report.html").read_text()


def test_studies_come_back_with_the_settings_of_the_soups(finished, again):
    before = {path: content for path, content in contents(finished.live).items() if path.endswith(".parquet")}
    again("soup.methods=[uniform]", only=["soup"])
    assert not (finished.live / "comparisons.parquet").exists()
    again()
    after = contents(finished.live)
    assert {path for path in before if path not in after} == set()
    assert after["comparisons.parquet"] == before["comparisons.parquet"]


def test_a_shift_can_be_added_to_a_finished_sweep(finished, again):
    again(f"data.shifts={{again: {finished.folder / 'inverted.parquet'}}}", "soup.methods=[uniform]", only=["soup"])
    (row,) = read_table(finished.live / "soups.parquet", SoupRecord)
    assert row.shift_accuracies == {"again": finished.soups()["uniform"].shift_accuracies["inverted"]}


def test_the_registry_holds_ingredients_theta0_soups_and_champion(finished, again):
    client, record = client_of(finished), finished.record()
    sweep = find_sweep(str(finished.config().registry.tracking_uri), "digits-tiny")
    assert sweep.sweep_id == record.sweep_id
    versions = list_ingredients(sweep)
    assert [version.trial_index for version in versions] == [None, *(row.trial_index for row in finished.ingredients())]
    assert [version.sha256 for version in versions[1:]] == [row.sha256 for row in finished.ingredients()]
    aliases = client.get_registered_model("digits-tiny-soup").aliases
    assert set(aliases) == {*MODELS, "champion"}
    assert aliases["champion"] == aliases[record.champion]


def test_the_same_command_again_runs_nothing(finished, again, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing is left to do")

    for name in ("run_pending", "start_ray", "load_splits", "open_sweep"):
        monkeypatch.setattr(running, name, refuse)
    before = contents(finished.live)
    again()
    assert contents(finished.live) == before
    assert "best-individual" in capsys.readouterr().out.lower().replace(" ", "-")


def test_other_soup_settings_run_soup_study_and_report_again(finished, again, monkeypatch):
    before, ran, original = contents(finished.live), [], running.run_stage
    monkeypatch.setattr(running, "run_stage", lambda made, stage: (ran.append(stage), original(made, stage)))
    again("soup.methods=[uniform, mehl-plus]", "soup.settings.mehl-plus.learning_rate=0.5")
    after = contents(finished.live)
    assert ran == ["soup", *(study for study in STUDIES if study != "similarity"), "report"]
    assert after["ingredients.parquet"] == before["ingredients.parquet"]
    assert after["soups/uniform.safetensors"] == before["soups/uniform.safetensors"]
    assert after["soups/mehl-plus.safetensors"] != before["soups/mehl-plus.safetensors"]
    rows = read_table(finished.live / "soups.parquet", SoupRecord)
    assert [row.method for row in rows] == ["uniform", "mehl-plus"]
    record = RunRecord.model_validate_json((finished.live / "run.json").read_text())
    assert record.champion in {"uniform", "mehl-plus"}
    # greedy is no soup of the run any more, yet still on the curve
    points = read_table(finished.live / "cost_accuracy.parquet", CostRecord)
    assert points == read_table(finished.output / "cost_accuracy.parquet", CostRecord)


def test_only_what_is_new_is_built(finished, again, caplog):
    caplog.set_level("INFO", "pipeline")
    again(
        "soup.methods=[greedy, mehl-plus]",
        "soup.settings.mehl-plus.learning_rate=0.5",
        "study={cost_accuracy: {methods: [greedy, uniform], step: 1}}",
    )
    count = len(finished.ingredients())
    lines = [record.getMessage() for record in caplog.records]
    assert f"soup: 2 methods over {count} ingredients, 1 of them built already" in lines
    assert [line.split()[1] for line in lines if line.startswith("soup: ") and "validation" in line] == ["mehl-plus:"]
    known = {2 * step for step in range(1, count)} | {count}
    new = [size for size in range(1, count) if size not in known]
    expected = [f"study: cost-accuracy/{method}-{size}" for method in ("greedy", "uniform") for size in new]
    built = [line.partition(": validation")[0] for line in lines if line.startswith("study: ")]
    # Without the best ingredient the elimination study may have built the soup of the first three already.
    assert built in (expected, [name for name in expected if name != f"study: cost-accuracy/uniform-{count - 1}"])
    assert (finished.live / "soups/greedy.safetensors").read_bytes() == (
        finished.output / "soups/greedy.safetensors"
    ).read_bytes()
    client = client_of(finished)
    assert len(client.search_model_versions("name = 'digits-tiny-soup' and tags.method = 'greedy'")) == 1
    record = RunRecord.model_validate_json((finished.live / "run.json").read_text())
    assert record.champion in {"greedy", "mehl-plus"}


def test_a_damaged_ingredient_stops_the_soups_or_is_left_out(finished, again, caplog):
    caplog.set_level("INFO", "pipeline")
    settings = ("soup.methods=[wise-ft, uniform]", "study.cost_accuracy.methods=[uniform]")
    path, count = local_path(finished.ingredients()[-1].path), len(finished.ingredients())
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-8])
        with pytest.raises(RegistryError, match="SHA-256 differs"):
            again(*settings)
        again(*settings, "soup.damaged=skip")
        soups = read_table(finished.live / "soups.parquet", SoupRecord)
        assert [(row.method, row.num_ingredients) for row in soups] == [("wise-ft", count - 1), ("uniform", count)]
        (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
        assert said.startswith("soup: left out: ingredient version ")
        trials = {
            row.trial_index for row in read_table(finished.live / "coefficients/wise-ft.parquet", CoefficientRecord)
        }
        assert trials == {row.trial_index for row in finished.ingredients()[:-1]}
        path.write_bytes(whole)
        again(*settings, "soup.damaged=skip", "soup.settings.wise-ft.soup=uniform")
        assert read_table(finished.live / "soups.parquet", SoupRecord)[0].num_ingredients == count
    finally:
        path.write_bytes(whole)


def test_a_larger_sweep_keeps_its_trials(finished, again):
    again("search.num_trials=6", "soup.methods=[uniform]", "study.cost_accuracy.methods=[uniform]")
    rows = read_table(finished.live / "ingredients.parquet", IngredientRecord)
    assert rows[:5] == finished.trials()
    assert rows[5].trial_index == 5
    (soup,) = read_table(finished.live / "soups.parquet", SoupRecord)
    assert soup.num_ingredients == sum(row.status == "finished" for row in rows)
    record = RunRecord.model_validate_json((finished.live / "run.json").read_text())
    assert record.sweep_id == finished.record().sweep_id


def test_a_smaller_sweep_and_another_seed_are_refused(finished, again):
    before = contents(finished.live)
    with pytest.raises(ConfigError, match="a sweep can grow, not shrink"):
        again("search.num_trials=4")
    with pytest.raises(ConfigError, match="other settings: seed"):
        again("seed=5")
    assert contents(finished.live) == before


def test_a_larger_sweep_without_the_search_stage_is_refused(again):
    with pytest.raises(ConfigError, match=r"^--stages: 'soup' needs 'search', which is not done; add it$"):
        again("search.num_trials=6", only=["soup"])


def test_the_soup_stage_alone_on_a_new_folder_is_a_one_line_error(finished, tmp_path):
    with pytest.raises(ConfigError, match=r"^--stages: 'soup' needs 'search', which is not done; add it$"):
        run.run_stages(finished.config(f"output={tmp_path / 'new'}"), ["soup"], fresh=False)


def test_a_sweep_without_a_finished_trial_ends_the_run(finished, tmp_path):
    config = finished.config(
        f"output={tmp_path / 'bad'}", "search.num_trials=1", "search.distributions.lr={choice: [1e+30]}"
    )
    for _ in range(2):  # the second time from the records
        with pytest.raises(SearchError) as caught:
            run.run_stages(config, all_stages(), fresh=False)
        message = str(caught.value)
        assert message.startswith("none of the 1 trials finished; the first: loss or weights are not finite in epoch 1")
        assert len(message.splitlines()) == 1
    assert not (tmp_path / "bad" / "soups.parquet").exists()
    assert json.loads((tmp_path / "bad" / "state.json").read_text())["done"] == {}


def test_a_run_is_verified_from_the_registry_alone(finished, again, caplog):
    caplog.set_level("INFO", "pipeline")
    assert main(["verify", "digits-tiny", "--tracking-uri", str(finished.config().registry.tracking_uri)]) == 0
    lines = [record.getMessage() for record in caplog.records]
    count = len(finished.ingredients())
    assert lines[0] == f"ingredients: {count + 1} of {count + 1} have the recorded SHA-256"
    assert [line.split()[1] for line in lines[1:-1]] == MODELS
    assert all(line.endswith(": as recorded") for line in lines[1:-1])
    assert lines[-1] == f"run 'digits-tiny': {count + 1} ingredients and {len(MODELS)} soups are as recorded"


def test_what_was_changed_in_the_registry_is_named(finished, again):
    uri = str(finished.config().registry.tracking_uri)
    sweep = find_sweep(uri, "digits-tiny")
    greedy = next(soup for soup in list_soups(sweep) if soup.method == "greedy")
    client = sweep.client()
    client.set_model_version_tag(sweep.soup_model, str(greedy.version), "test_accuracy", "0.99")
    uniform = next(soup for soup in list_soups(sweep) if soup.method == "uniform")
    # Another soup's lineage: well-formed, and wrong.
    tag = client.get_model_version(sweep.soup_model, str(greedy.version)).tags["lineage"]
    client.set_model_version_tag(sweep.soup_model, str(uniform.version), "lineage", tag)
    path = local_path(finished.ingredients()[-1].path)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-8])
        with pytest.raises(RegistryError) as caught:
            verify("digits-tiny", uri)
    finally:
        path.write_bytes(whole)
    said = str(caught.value).splitlines()
    cut = next(version for version in list_ingredients(sweep) if local_path(version.uri) == path)
    assert f"ingredient version {cut.version}: " in said[1]
    assert "SHA-256 differs" in said[1]
    missing = [line for line in said if f"cannot be made again without ingredient versions {cut.version}" in line]
    assert any("'mehl-plus'" in line for line in missing)
    assert any(f"'greedy' (version {greedy.version}): test_accuracy is" in line for line in said)
    with pytest.raises(RegistryError, match=rf"'uniform' \(version {uniform.version}\): the coefficients give other"):
        verify("digits-tiny", uri)


def test_the_champion_is_served_from_the_registry(finished, splits):
    mlflow.set_tracking_uri(str(finished.config().registry.tracking_uri))
    soup = mlflow.pyfunc.load_model("models:/digits-tiny-soup@champion")
    files = []
    for image in splits.test.images:
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file := io.BytesIO(), "png")
        files.append(file.getvalue())
    answered = soup.predict(pd.DataFrame({"image": files}))["label"]
    predictions = read_table(
        finished.output / "predictions" / f"{finished.record().champion}.parquet", PredictionRecord
    )
    expected = [splits.class_names[row.prediction] for row in predictions if row.split == "test"]
    assert list(answered) == expected


def test_a_soup_is_exported_and_loaded_by_open_clip(finished, splits, tmp_path, capsys):
    uri = str(finished.config().registry.tracking_uri)
    out = tmp_path / "exported"
    command = ["export", "digits-tiny", "--soup", "greedy", "--out", str(out), "--tracking-uri", uri]
    assert main([*command, "--program"]) == 0
    images = splits.test.tensors()[0][:8].float() / 255
    names = {"images": images, "open_clip": open_clip, "safetensors": safetensors}
    description = json.loads((out / "description.json").read_text())
    mean, std = (torch.tensor(description[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    names["images"] = (images - mean) / std
    code = capsys.readouterr().out
    exec(code[code.index("model, _") :], names)
    model = build_classifier(finished.config().model, 10).eval()
    model.load_state_dict(load_file(finished.output / "soups" / "greedy.safetensors"))
    expected = model(images)
    torch.testing.assert_close(names["logits"], expected, atol=1e-5, rtol=1e-5)
    program = torch.export.load(out / "model.pt2").module()
    for count in (1, 8):
        torch.testing.assert_close(program(images[:count]), expected[:count], atol=1e-5, rtol=1e-5)
    assert main(command) == 2
    assert "is there already; give a new folder" in capsys.readouterr().err
    assert main(["export", "digits-tiny", "--soup", "hl", "--out", str(tmp_path / "no"), "--tracking-uri", uri]) == 2
    assert "has no soup 'hl'; there are: " in capsys.readouterr().err


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
