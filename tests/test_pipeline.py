"""The whole line on a few digits: real trials in Ray, a real MLflow store, every record read back."""

import base64
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
    ConfusionRecord,
    CostRatioRecord,
    CostRecord,
    ExampleRecord,
    IngredientRecord,
    LossRecord,
    PredictionRecord,
    RunRecord,
    SimilarityRecord,
    SoupRecord,
    VariantRecord,
    cumulative_gpu_hours,
)
from pipeline.records.folder import RunFolder, read_run
from pipeline.records.tables import read_table
from pipeline.registry import connect, find_soup, find_sweep, list_ingredients, list_soups
from pipeline.registry.client import local_path
from pipeline.report import below_start
from pipeline.soup_requests import RequestedIngredient
from pipeline.soup_task import build_soups
from pipeline.soups import IngredientSet, soup_from_coefficients
from pipeline.stages import running
from pipeline.stages.building import soup_context, soup_request
from pipeline.stages.state import all_stages, open_state
from pipeline.studies import STUDIES, whole_sweep
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
    {{lr: {{choice: [1.0e-4, 3.0e-4, 1.0e+30]}}, epochs: {{randint: [1, 3]}}, batch_size: 50, augmentation: minimal}}
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
    """A finished run: the folder that it is repeated in, and a copy to look at of what it and MLflow keep."""

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
        for name in ("run", "mlartifacts"):
            shutil.rmtree(self.folder / name)
            shutil.copytree(self.folder / "kept" / name, self.folder / name)
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
    for name in ("run", "mlartifacts"):
        shutil.copytree(folder / name, folder / "kept" / name)
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
        ("confusions.parquet", ConfusionRecord),
        *[(f"history/{method}.parquet", LossRecord) for method in ("mehl", "mehl-plus")],
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


def test_mistakes_are_those_of_champion_and_best_trial_and_examples_are_the_images(finished, splits):
    champion, soups = finished.record().champion, finished.soups()
    rows = read_table(finished.output / "confusions.parquet", ConfusionRecord)
    assert {row.method for row in rows} == {champion, "best-individual"}
    for method in {row.method for row in rows}:
        right = sum(row.images for row in rows if row.method == method and row.label == row.prediction)
        assert right / 150 == pytest.approx(soups[method].test_accuracy)
    examples = read_table(finished.output / "examples.parquet", ExampleRecord)
    assert bool(examples) == (champion != "best-individual")
    for row in examples:
        assert splits.test.labels[row.image_index] == row.label
        with Image.open(io.BytesIO(base64.b64decode(row.content))) as picture:
            pixels = np.asarray(picture.convert("RGB"))  # each as a square of 4 x 4
        assert np.array_equal(pixels[::4, ::4].transpose(2, 0, 1), splits.test.inputs[row.image_index])


def test_the_losses_of_methods_with_blocks_are_recorded_and_kept_with_their_runs(finished):
    rows = read_table(finished.output / "history" / "mehl-plus.parquet", LossRecord)
    soup = finished.soups()["mehl-plus"]
    assert [row.step for row in rows] == list(range(4 * soup.outer_iterations))
    assert [row.block for row in rows] == [block for block in range(soup.outer_iterations) for _ in range(4)]
    assert soup.outer_iterations > 1
    assert {path.stem for path in (finished.output / "history").iterdir()} == {"mehl", "mehl-plus"}
    recorded = finished.record().recorded
    assert recorded.soups.keys() == set(METHODS)
    client = client_of(finished)
    assert [item.path for item in client.list_artifacts(recorded.soups["mehl-plus"], "history")] == [
        "history/mehl-plus.parquet"
    ]
    assert {client.get_run(run_id).info.run_name for run_id in recorded.trials.values()} == {
        f"trial {row.trial_index}" for row in finished.trials()
    }


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


def test_a_run_given_by_name_has_the_same_page_from_the_registry_alone(finished, again, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where nothing has the name of the run
    config, pages = finished.config(), []
    for given in (str(config.output), config.name):
        asked = ["report", given, "--tracking-uri", str(config.registry.tracking_uri), "--out", "page.html"]
        assert main(asked) == 0
        pages.append(Path("page.html").read_text())
    assert pages[0] == pages[1]


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
    start = read_table(finished.output / "wise_ft.parquet", VariantRecord)[0]  # its soup with alpha 0
    for name in ("val_accuracy", "select_accuracy", "test_accuracy"):
        assert getattr(record, f"theta0_{name}") == pytest.approx(getattr(start, name))
    assert record.theta0_shift_accuracies == pytest.approx(start.shift_accuracies)
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
    again("study.elimination.top=[1, 3]", only=["elimination"])
    after = contents(finished.live)
    new = {path for path in after if after[path] != before.get(path)}
    assert new == {
        "config.yaml", "state.json", "elimination.parquet", "predictions/elimination/uniform/eliminated=3.parquet",
    }  # fmt: skip


def test_several_tasks_build_the_same_soups_side_by_side(finished, again):
    again()
    config = finished.config()
    state, _ = open_state(config, fresh=False)
    made = running.open_run(config, state)
    rows = made.ingredients()
    context = soup_context(made, rows, None)
    request = functools.partial(soup_request, config, made.precision, rows)
    requests = {method: whole_sweep(request, rows, method) for method in ("uniform", "greedy", "mehl")}
    one = dict(build_soups(context, requests, cpus=1))
    two = dict(build_soups(context, requests, cpus=1, tasks=2))
    assert set(one) == set(two) == set(requests)
    for method in requests:
        assert two[method].record.method == method
        assert two[method].predictions == one[method].predictions
    lost = dataclasses.replace(requests["uniform"], ingredients=(RequestedIngredient(99, None),))
    with pytest.raises(RegistryError, match="trial 99: the registry has no ingredient of it any more"):
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


def test_mlflow_has_theta0_beside_the_champion_and_at_the_start_of_the_curve(finished, again):
    again(only=["elimination"])  # what is recorded is looked at anew by every call
    client, record = client_of(finished), finished.record()
    sweep = find_sweep(str(finished.config().registry.tracking_uri), "digits-tiny")
    data = client.get_run(sweep.run_id).data
    assert {name: data.metrics[f"theta0_{name}"] for name in record.theta0_figures} == record.theta0_figures
    below = below_start(record, finished.soups()[record.champion])
    assert data.tags["champion_below_theta0"] == (below or "no")
    assert "theta0" in data.tags["mlflow.note.content"]
    curves = client.search_runs([sweep.experiment_id], "tags.role = 'cost-accuracy'")
    assert {curve.info.run_name for curve in curves} == {"greedy: cost curve", "uniform: cost curve"}
    for name, value in {"gpu_hours": 0, "test_accuracy": record.theta0_test_accuracy}.items():
        for curve in curves:
            first = min(client.get_metric_history(curve.info.run_id, name), key=lambda metric: metric.step)
            assert (first.step, first.value) == (0, value)


def test_best_individual_may_be_theta0_where_it_is_an_ingredient(finished, again):
    again("soup.include_initialization=true", "soup.methods=[best-individual, uniform]", only=["soup"])
    row, _ = read_table(finished.live / "soups.parquet", SoupRecord)
    accuracies = {row.trial_index: row.val_accuracy for row in finished.ingredients()}
    accuracies[-1] = finished.record().theta0_val_accuracy
    assert row.num_ingredients == len(accuracies)
    assert row.val_accuracy == pytest.approx(max(accuracies.values()))
    coefficients = read_table(finished.live / "coefficients" / "best-individual.parquet", CoefficientRecord)
    assert [one.trial_index for one in coefficients] == list(accuracies)
    (best,) = [one.trial_index for one in coefficients if one.coefficient]
    assert accuracies[best] == max(accuracies.values())


def test_a_champion_below_theta0_is_said_in_the_log_the_table_the_report_and_mlflow(finished, again, caplog, capsys):
    start = json.loads((finished.live / "run.json").read_text())
    better = {"theta0_select_accuracy": 0.999, "theta0_test_accuracy": 0.999}
    (finished.live / "run.json").write_text(json.dumps(start | better))
    again("soup.methods=[uniform]", only=["soup", "report"])
    (row,) = read_table(finished.live / "soups.parquet", SoupRecord)
    select, test = (f"{100 * value:.2f} % against 99.90 %" for value in (row.select_accuracy, row.test_accuracy))
    below = f"select {select}, test {test}"
    *_, warning = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == f"soup: the champion, uniform, is below the starting point: {below}"
    assert f"below the starting point, theta0:\n  {below}\n" in capsys.readouterr().out
    page = (finished.live / "report.html").read_text().replace("&nbsp;", " ")
    assert page.count(f"The champion is below the starting point that all trials share: {below}.") == 1
    client = client_of(finished)
    sweep = find_sweep(str(finished.config().registry.tracking_uri), "digits-tiny")
    tags = client.get_run(sweep.run_id).data.tags
    assert tags["champion_below_theta0"] == below
    assert below in tags["mlflow.note.content"]
    assert below in client.get_registered_model("digits-tiny-soup").description


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
    uri = str(finished.config().registry.tracking_uri)
    client, greedy = client_of(finished), find_soup(find_sweep(uri, "digits-tiny"), "greedy")
    client.delete_model_version_tag("digits-tiny-soup", str(greedy.version), "served_files")  # as older versions did
    assert main(["verify", "digits-tiny", "--tracking-uri", uri]) == 0
    lines = [record.getMessage() for record in caplog.records]
    count = len(finished.ingredients())
    assert lines[0] == f"ingredients: {count + 1} of {count + 1} have the recorded SHA-256"
    assert [line.split()[1] for line in lines[1:-1]] == MODELS
    (unknown,) = [line for line in lines[1:-1] if not line.endswith(": as recorded")]
    assert unknown.startswith(f"soup greedy (version {greedy.version}): as recorded; what is served with it (code, ")
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
    for image in splits.test.inputs:
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
    torch.testing.assert_close(names["logits"], expected, atol=1e-3, rtol=1e-4)
    program = torch.export.load(out / "model.pt2").module()
    for count in (1, 8):
        torch.testing.assert_close(program(images[:count]), expected[:count], atol=1e-3, rtol=1e-4)
    assert main(command) == 2
    assert "is there already; give a new folder" in capsys.readouterr().err
    assert main(["export", "digits-tiny", "--soup", "hl", "--out", str(tmp_path / "no"), "--tracking-uri", uri]) == 2
    assert "has no soup 'hl'; there are: " in capsys.readouterr().err


@pytest.fixture
def by_hand(finished, again, monkeypatch):
    """What people may do in MLflow after the run; trials must not run again."""

    def refuse(*args, **kwargs):
        raise AssertionError("a trial was paid for")

    monkeypatch.setattr("pipeline.stages.search.run_trials", refuse)
    uri = str(finished.config().registry.tracking_uri)
    return client_of(finished), find_sweep(uri, "digits-tiny"), lambda: verify("digits-tiny", uri)


def no_cluster(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("nothing is left to compute")

    for name in ("run_pending", "start_ray", "load_splits"):
        monkeypatch.setattr(running, name, refuse)


def moved_aliases(client, sweep):
    client.set_registered_model_alias(sweep.soup_model, "greedy", "1")
    client.delete_registered_model_alias(sweep.soup_model, "champion")
    return ["alias 'greedy' of digits-tiny-soup was moved to version 1", "alias 'champion' of digits-tiny-soup was del"]


def deleted_models(client, sweep):
    client.delete_registered_model(sweep.soup_model)
    client.delete_registered_model(sweep.ingredient_model)
    return ["soup 'greedy': its version was deleted", "trial 0: its version was", "theta0: its version was deleted"]


def deleted_runs(client, sweep):
    for one in client.search_runs([sweep.experiment_id]):
        client.delete_run(one.info.run_id)
    return ["the run of the sweep was deleted", "soup 'ensemble': its run was deleted", "trial 0: its run was deleted"]


def deleted_experiment(client, sweep):
    client.delete_experiment(sweep.experiment_id)
    return ["its experiment was deleted"]


def altered_files(client, sweep):
    """What a soup answers with: other class names, other code, a file too few and one in the place of a library."""
    version = client.get_model_version_by_alias(sweep.soup_model, "greedy")
    folder = local_path(client.get_run(version.run_id).info.artifact_uri) / "soup"
    description = json.loads((folder / "artifacts" / "description.json").read_text())
    description["class_names"].reverse()
    (folder / "artifacts" / "description.json").write_text(json.dumps(description))
    with (folder / "served_model.py").open("a") as file:
        file.write("ServedSoup.predict = None\n")
    (folder / "code" / "decode.py").unlink()
    (folder / "code" / "PIL").mkdir()
    (folder / "code" / "PIL" / "__init__.py").write_text("")
    changes = {
        "artifacts/description.json": "was changed",
        "code/PIL/__init__.py": "was added",
        "code/decode.py": "is missing",
        "served_model.py": "was changed",
    }
    return [f"\n  soup 'greedy' (version {version.version}): {name} {how}\n" for name, how in changes.items()]


@pytest.mark.parametrize("change", [moved_aliases, deleted_models, deleted_runs, deleted_experiment, altered_files])
def test_what_was_changed_by_hand_is_named_and_made_again(finished, by_hand, again, monkeypatch, change):
    client, sweep, check = by_hand
    expected = change(client, sweep)
    with pytest.raises(RegistryError) as caught:
        check()
    said = str(caught.value)
    assert all(line in said for line in expected), said
    assert said.endswith("made again by the command `run` that made the run")
    with monkeypatch.context() as patch:
        no_cluster(patch)
        again()
    check()
    champion = client.get_model_version_by_alias(sweep.soup_model, "champion")
    assert champion.tags["method"] == finished.record().champion


def test_a_store_that_is_lost_is_filled_again_from_the_folder(finished, by_hand, again, migrated_store, caplog):
    caplog.set_level("INFO", "pipeline")
    client, _, check = by_hand
    copy_database(migrated_store, finished.folder / "mlflow.db")
    with pytest.raises(RegistryError, match="has no run 'digits-tiny'"):
        check()
    again()  # all but the ensemble, which is no model, without building anything
    check()
    (experiment,) = client.search_experiments(filter_string="name = 'digits-tiny'")
    runs = client.search_runs([experiment.experiment_id])
    by_role = {role: [run for run in runs if run.data.tags["role"] == role] for role in ("trial", "soup", "sweep")}
    assert {role: len(found) for role, found in by_role.items()} == {"trial": 5, "soup": len(METHODS), "sweep": 1}
    assert f"soup: 6 methods over {len(finished.ingredients())} ingredients, 5 of them built already" in caplog.messages
    (parent,) = by_role["sweep"]
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= {"report.html", "config.yaml"}


def test_a_page_whose_runs_were_made_anew_leads_to_the_new_ones(finished, by_hand, again, migrated_store, monkeypatch):
    client, _, _ = by_hand
    again("soup.methods=[uniform, greedy]")  # models, which the folder has all of
    before = read_run(RunFolder(finished.live)).recorded
    copy_database(migrated_store, finished.folder / "mlflow.db")
    with monkeypatch.context() as patch:
        no_cluster(patch)
        again("soup.methods=[uniform, greedy]")
    recorded = read_run(RunFolder(finished.live)).recorded
    assert recorded.soups.keys() == before.soups.keys() == {"uniform", "greedy"}
    assert not set(recorded.soups.values()) & set(before.soups.values())
    for run_id in (*recorded.soups.values(), *recorded.trials.values()):
        assert client.get_run(run_id).info.experiment_id == recorded.experiment_id


def test_a_soup_of_which_nothing_is_left_is_built_again(finished, by_hand, again):
    client, sweep, check = by_hand
    client.delete_registered_model(sweep.soup_model)
    (finished.live / "soups" / "uniform.safetensors").unlink()
    again()
    check()
    assert (finished.live / "soups" / "uniform.safetensors").exists()


def test_an_ingredient_that_is_gone_is_named_and_soups_go_on_without_it(finished, by_hand, again, caplog):
    caplog.set_level("INFO", "pipeline")
    client, sweep, _ = by_hand
    row = finished.ingredients()[0]
    path = local_path(row.path)
    whole = path.read_bytes()
    try:
        path.unlink()
        client.delete_model_version(sweep.ingredient_model, str(row.model_version))
        again()  # all is done: it is named, once
        (line,) = [message for message in caplog.messages if "are gone" in message]
        assert line.startswith(f"MLflow: trial {row.trial_index}: its version was deleted, and its weights ")
        changed = ("soup.methods=[uniform]", "soup.include_initialization=true")
        with pytest.raises(RegistryError, match=rf"^trial {row.trial_index}: .*soup.damaged=skip"):
            again(*changed, only=["soup"])
        for _ in range(2):
            again(*changed, "soup.damaged=skip", only=["soup"])
        (uniform,) = read_table(finished.live / "soups.parquet", SoupRecord)
        assert uniform.num_ingredients == len(finished.ingredients())  # theta0 came, one is gone
        assert "everything is done already" in caplog.messages[-1]
    finally:
        path.write_bytes(whole)


def test_soups_of_earlier_settings_are_marked_in_mlflow(finished, by_hand, again):
    client, sweep, _ = by_hand
    again("soup.methods=[uniform, mehl]", "soup.settings.mehl.inner_iterations=2", only=["soup"])
    names = {run.info.run_name for run in client.search_runs([sweep.experiment_id], "tags.role = 'soup'")}
    assert {name for name in names if "superseded" not in name} == {"uniform", "mehl"}
    assert "mehl (superseded)" in names
    again()
    names = [run.info.run_name for run in client.search_runs([sweep.experiment_id], "tags.role = 'soup'")]
    assert sorted(name for name in names if "superseded" not in name) == sorted(METHODS)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
