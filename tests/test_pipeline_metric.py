"""The whole line decided by another metric than accuracy: Matthews correlation, where one image in ten is a zero."""

import io
import itertools
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import matthews_corrcoef

from pipeline.commands import run
from pipeline.commands.common import known_names
from pipeline.commands.verify import verify
from pipeline.config import load_config
from pipeline.data import load_splits
from pipeline.errors import ConfigError, DataError, RegistryError
from pipeline.records import ComparisonRecord, CostRecord, IngredientRecord, PredictionRecord, RunRecord, SoupRecord
from pipeline.records.tables import read_table
from pipeline.registry import connect, find_sweep, list_soups
from pipeline.stages.state import all_stages

SETTINGS = """
name: zeros
seed: 3
output: {folder}/run
data: {{source: parquet, train: {folder}/zeros.parquet, image_size: 8, store: {folder}/prepared, metric: matthews,
  test: {folder}/test.parquet, validation_size: 300, shifts: {{inverted: {folder}/inverted.parquet}}}}
model:
  backbone: open_clip
  architecture:
    {{embed_dim: 16, vision_cfg: {{image_size: 8, patch_size: 2, width: 16, layers: 1, head_width: 8}}}}
search:
  num_trials: 5
  distributions: {{lr: {{loguniform: [3.0e-4, 3.0e-3]}}, epochs: {{randint: [1, 4]}}, batch_size: 50}}
soup: {{methods: [best-individual, uniform, greedy, ensemble, greedy-ensemble]}}
study:
  cost_accuracy: {{methods: [greedy, uniform], step: 2}}
  elimination: {{methods: [greedy], top: [1]}}
registry: {{tracking_uri: "sqlite:///{folder}/mlflow.db"}}
"""


def write_zeros(path, rows, inverted=False):
    """Digits, and whether each is a zero."""
    digits, encoded = load_digits(), []
    for image in digits.images[rows]:
        pixels = (image * 15).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(255 - pixels if inverted else pixels).convert("RGB").save(file, "PNG")
        encoded.append(file.getvalue())
    pq.write_table(pa.table({"image": encoded, "label": (digits.target[rows] == 0).astype(int).tolist()}), path)


@pytest.fixture(scope="module")
def folder(session_ray, migrated_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("metric")
    shutil.copy(migrated_store, folder / "mlflow.db")
    write_zeros(folder / "zeros.parquet", slice(0, 900))
    write_zeros(folder / "test.parquet", slice(900, 1300))
    write_zeros(folder / "inverted.parquet", slice(1300, 1400), inverted=True)
    (folder / "config.yaml").write_text(SETTINGS.format(folder=folder))
    run.run_stages(settings(folder), all_stages(), fresh=False)
    return folder


def settings(folder, *overrides):
    return load_config(folder / "config.yaml", overrides, known_names)


def table(folder, name, kind):
    return read_table(folder / "run" / f"{name}.parquet", kind)


def record(folder):
    return RunRecord.model_validate_json((folder / "run" / "run.json").read_text())


def test_records_have_scores_beside_accuracies_and_they_are_those_of_the_predictions(folder):
    for soup in table(folder, "soups", SoupRecord):
        rows = read_table(folder / "run" / "predictions" / f"{soup.method}.parquet", PredictionRecord)
        for split, name in {"fit": "val", "select": "select", "test": "test", "inverted": "inverted"}.items():
            labels, guesses = zip(*[(row.label, row.prediction) for row in rows if row.split == split], strict=True)
            expected = matthews_corrcoef(labels, guesses)
            assert soup.model_dump()[f"{name}_score"] == pytest.approx(expected, abs=1e-12)
            assert soup.model_dump()[f"{name}_accuracy"] == pytest.approx(np.equal(labels, guesses).mean())
        assert soup.shift_scores == {"inverted": soup.model_dump()["inverted_score"]}
    columns = pq.read_schema(folder / "run" / "ingredients.parquet").names
    assert columns[-3:] == ["val_score", "select_score", "test_score"]
    assert pq.read_schema(folder / "run" / "cost_accuracy.parquet").names[-3:] == columns[-3:]


def test_theta0_is_scored_too_and_the_run_names_the_metric(folder):
    made = record(folder)
    assert (made.metric, made.metric_label) == ("matthews", "Matthews correlation")
    assert list(made.theta0_scores) == ["val", "select", "test", "inverted"]
    assert made.theta0_figures["test_score"] == made.theta0_score("test") == made.theta0_scores["test"]


def test_it_decides_the_best_individual_the_champion_and_the_eliminated(folder):
    trials = {row.trial_index: row for row in table(folder, "ingredients", IngredientRecord)}
    soups = {row.method: row for row in table(folder, "soups", SoupRecord)}
    assert soups["best-individual"].val_score == max(row.val_score for row in trials.values())
    assert soups["greedy"].val_score >= soups["best-individual"].val_score
    models = [soups[name] for name in ("best-individual", "uniform", "greedy")]
    assert record(folder).champion == max(models, key=lambda row: (row.select_score, row.val_score)).method
    last = table(folder, "cost_accuracy", CostRecord)
    ends = {row.method: row for row in last if row.num_ingredients == 5}
    assert {name: row.test_score for name, row in ends.items()} == {name: soups[name].test_score for name in ends}


def test_statistics_are_of_the_metric(folder):
    soups = {row.method: row for row in table(folder, "soups", SoupRecord)}
    for row in table(folder, "comparisons", ComparisonRecord):
        difference = soups[row.method].test_score - soups[row.baseline].test_score
        assert row.difference == pytest.approx(difference, abs=1e-12)
        assert row.low - 1e-12 <= difference <= row.high + 1e-12
        assert 0 < row.p_value <= row.p_adjusted <= 1
    points = [row for row in table(folder, "cost_accuracy", CostRecord) if row.method == "greedy"]
    for before, after in itertools.pairwise(points):
        assert after.gain_low - 1e-12 <= after.test_score - before.test_score <= after.gain_high + 1e-12
        assert after.select_gain_low is not None


def test_mlflow_names_the_metric(folder):
    sweep = find_sweep(f"sqlite:///{folder / 'mlflow.db'}", "zeros")
    client = connect(sweep.tracking_uri)
    (trial, *_), (soup, *_) = (sweep.runs(client, f"tags.role = '{role}'") for role in ("trial", "soup"))
    (curve, *_), (theta0,) = (
        sweep.runs(client, f"tags.role = '{role}'") for role in ("cost-accuracy", "initialization")
    )
    for found in (trial, soup, curve, theta0):
        assert {"val_matthews", "select_matthews", "test_matthews", "val_accuracy"} <= found.data.metrics.keys()
        assert not [name for name in found.data.metrics if name.endswith("_score")]
    assert "inverted_matthews" in soup.data.metrics
    whole = client.get_run(sweep.run_id).data
    soups = {row.method: row for row in table(folder, "soups", SoupRecord)}
    champion = soups[record(folder).champion]
    assert whole.metrics["test_matthews"] == champion.test_score
    assert whole.metrics["theta0_test_matthews"] == record(folder).theta0_scores["test"]
    version = list_soups(sweep)[0]
    assert version.figures["test_score"] == soups[version.method].test_score
    assert whole.tags["metric"] == "matthews"


def test_the_page_and_the_table_speak_of_the_metric(folder):
    html = (folder / "run" / "report.html").read_text()
    text = re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style).*?</\1>", " ", html, flags=re.DOTALL))
    assert "Test Matthews correlation" in text
    assert "best Matthews correlation on the select split" in text
    assert "McNemar" not in text
    assert "Wilson" not in text
    # That of a class is an accuracy whatever decides.
    assert re.findall(r"(?i)\w* ?(?<![_-])accurac\w*\b(?! (?:per|of each) class)", text) == []
    assert set(re.findall(r"Test \w+ ?\w* \(%\)", html)) <= {"Test Matthews correlation (%)", "Test accuracy (%)"}


def test_what_is_recorded_is_verified(folder):
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    verify("zeros", uri)
    sweep = find_sweep(uri, "zeros")
    soup = list_soups(sweep)[0]
    client, model, number = connect(uri), sweep.soup_model, str(soup.version)
    client.set_model_version_tag(model, number, "select_score", "-0.9")
    try:
        with pytest.raises(RegistryError, match=r"select_score is .*, recorded was -0\.9"):
            verify("zeros", uri)
    finally:
        client.set_model_version_tag(model, number, "select_score", str(soup.figures["select_score"]))


def test_the_same_command_runs_nothing_and_another_metric_is_refused(folder):
    before = (folder / "run" / "soups.parquet").stat().st_mtime_ns
    run.run_stages(settings(folder), all_stages(), fresh=False)
    assert (folder / "run" / "soups.parquet").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"holds a run with other settings: data\.metric\. Give another `output`"):
        run.run_stages(settings(folder, "data.metric=accuracy"), all_stages(), fresh=False)


def test_a_store_that_is_lost_is_filled_again_with_the_scores(folder, migrated_store):
    (folder / "mlflow.db").unlink()
    shutil.copy(migrated_store, folder / "mlflow.db")
    run.run_stages(settings(folder), all_stages(), fresh=False)
    verify("zeros", f"sqlite:///{folder / 'mlflow.db'}")
    test_mlflow_names_the_metric(folder)


@pytest.mark.parametrize(("metric", "said"), [("f1", "'f1'"), ("accuracy_and_f1", "'accuracy_and_f1'")])
def test_a_metric_of_two_classes_is_refused_for_ten(session_ray, tmp_path, metric, said):
    from data.data_samples import data_config

    data = data_config(source="digits", image_size=8, test_size=100, store=tmp_path, metric=metric)
    with pytest.raises(DataError) as caught:
        load_splits(data, 0)
    assert str(caught.value) == (f"data.metric: {said} is defined for 2 classes, and there are 10; give 'macro_f1'")


def test_a_misspelt_metric_is_one_line(folder):
    with pytest.raises(ConfigError, match=r"data\.metric: unknown name 'mathews'; did you mean 'matthews'\?"):
        settings(folder, "data.metric=mathews")
