"""The whole line on small texts: a tiny random BERT through search, registry, soups, report, and a served soup."""

import re

import mlflow
import pandas as pd
import pytest
import torch
from samples import search_config
from text_samples import SPECIAL, WORDS, texts, write_encoder, write_table

from pipeline.commands import main
from pipeline.commands.common import known_names
from pipeline.config import load_config
from pipeline.data import KINDS
from pipeline.errors import ConfigError
from pipeline.evaluation import predict
from pipeline.models import build_classifier
from pipeline.records import IngredientRecord, PredictionRecord, RunRecord, SoupRecord
from pipeline.records.tables import read_table
from pipeline.search.sampling import sample_trials

SETTINGS = """
name: texts-tiny
output: {folder}/run
data:
  {{source: text_table, train: {folder}/train.csv, test: {folder}/test.csv, tokenizer: {folder}/bert, max_length: 8,
    validation_size: 200, store: {folder}/prepared}}
model: {{backbone: transformers, name: {folder}/bert, pretrained: DEFAULT, pooling: mean}}
search:
  {{num_trials: 3, distributions: {{lr: {{choice: [0.001, 0.003]}}, epochs: 1, batch_size: 50}}}}
soup: {{methods: [best-individual, uniform, greedy, mehl-plus], settings: {{mehl-plus: {{inner_iterations: 3}}}}}}
registry: {{tracking_uri: "sqlite:///{folder}/mlflow.db"}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    torch.manual_seed(0)
    write_encoder(folder / "bert")
    write_table(folder / "train.csv", **texts(400, 0))
    write_table(folder / "test.csv", **texts(100, 1))
    (folder / "config.yaml").write_text(SETTINGS.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    assert main(["run", "--config", str(folder / "config.yaml"), "--stages", "search,soup,report"]) == 0
    return folder / "run"


def test_soups_of_texts_are_recorded(finished):
    trials = read_table(finished / "ingredients.parquet", IngredientRecord)
    assert [row.status for row in trials] == ["finished"] * 3
    assert {(row.hyperparameters["augmentation"], row.hyperparameters["mixup"]) for row in trials} == {(None, None)}
    assert {row.hyperparameters["schedule"] for row in trials} == {"linear"}
    soups = {row.method: row for row in read_table(finished / "soups.parquet", SoupRecord)}
    assert soups.keys() == {"best-individual", "uniform", "greedy", "mehl-plus"}
    assert soups["greedy"].test_accuracy > 0.9
    report = (finished / "report.html").read_text()
    assert "has 100&nbsp;texts" in report
    assert "What each text was used for" in report
    said = re.sub(r"(?s)<(script|style|noscript).*?</\1>|<[^>]*>", "", report)
    assert "image" not in said


def test_the_champion_answers_as_it_was_measured(finished, folder):
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    soup = mlflow.pyfunc.load_model("models:/texts-tiny-soup@champion")
    answered = soup.predict(pd.DataFrame({"text": texts(100, 1)["text"]}))["label"]
    champion = RunRecord.model_validate_json((finished / "run.json").read_text()).champion
    rows = read_table(finished / "predictions" / f"{champion}.parquet", PredictionRecord)
    assert list(answered) == [str(row.prediction) for row in rows if row.split == "test"]


def test_the_run_is_verified(finished, folder, caplog):
    caplog.set_level("INFO", "pipeline")
    assert main(["verify", "texts-tiny", "--tracking-uri", f"sqlite:///{folder}/mlflow.db"]) == 0
    assert "run 'texts-tiny': 4 ingredients and 4 soups are as recorded" in caplog.text


def test_a_soup_leaves_as_an_encoder_with_a_head_that_the_printed_code_loads(finished, folder, tmp_path, capsys):
    uri, out = f"sqlite:///{folder}/mlflow.db", tmp_path / "out"
    assert main(["export", "texts-tiny", "--tracking-uri", uri, "--out", str(out), "--program"]) == 0
    printed = capsys.readouterr().out
    asked = texts(100, 1)["text"]
    code = printed[printed.index("import torch") :].replace("['the first text', 'another']", repr(asked))
    exec(code, values := {})
    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model("models:/texts-tiny-soup@champion").predict(pd.DataFrame({"text": asked}))
    torch.testing.assert_close(values["logits"], torch.tensor(served["logits"].tolist()), atol=1e-5, rtol=1e-5)
    assert 10 < values["logits"].argmax(1).sum() < 90
    assert values["tokens"]["input_ids"].shape[1] <= 8


def test_texts_are_evaluated_by_length_and_answered_in_their_order(folder):
    config = load_config(folder / "config.yaml", [], known_names)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1, len(SPECIAL) + len(WORDS), (300, 8), dtype=torch.int32, generator=generator)
    lengths = torch.randint(1, 8, (300,), generator=generator)
    rows[torch.arange(8) >= lengths[:, None]] = 0
    model = build_classifier(config.model, 2)
    widths = []
    model.prepare.register_forward_pre_hook(lambda module, inputs: widths.append(inputs[0].shape[1]))
    by_length = predict(model, rows, "cpu", lengths=lengths.numpy())
    assert widths == sorted(widths)
    assert widths[0] < widths[-1] == 7, "a batch is as long as its longest text"
    torch.testing.assert_close(by_length, predict(model, rows, "cpu"))


def test_the_space_of_texts_is_their_own_unless_another_is_named(folder):
    search = load_config(folder / "config.yaml", [], known_names).search
    assert (search.space, search.warmup_fraction, search.num_trials) == ("text", 0, 3)
    assert load_config(folder / "config.yaml", ["search.space=random"], known_names).search.space == "random"


def test_what_means_nothing_for_texts_is_refused_by_name(folder):
    overrides = ["search.distributions.mixup=0.5", "search.distributions.augmentation=medium"]
    with pytest.raises(ConfigError, match=r"search\.distributions: .*mixup.*: without a meaning for what source '"):
        load_config(folder / "config.yaml", overrides, known_names)


def test_what_means_nothing_is_not_drawn():
    meaningless = KINDS["text"].meaningless
    for space in ("random", "standard-grid"):
        for trial in sample_trials(search_config(space=space, num_trials=9), 0, meaningless):
            assert not trial.hyper.given.keys() & set(meaningless)
    grid = sample_trials(search_config(space="standard-grid", num_trials=4), 0, meaningless)
    assert len({trial.hyper.lr for trial in grid}) == 4, "the grid is of what has a meaning alone"
