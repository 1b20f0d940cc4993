"""What Hugging Face's Trainer leaves of a sweep: imported, souped, served and exported as transformers computes it."""

import json
import os
import pickle
import shutil

import mlflow
import pandas as pd
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from text_samples import SPECIAL, WORDS, texts, write_table, write_tokenizer

from pipeline.commands import main
from pipeline.commands.import_ import find_checkpoints
from pipeline.records import IngredientRecord
from pipeline.records.tables import read_table
from pipeline.stages.trainer_state import read_trainer_state

SETTINGS = """
name: trained
output: {folder}/run
data:
  {{source: text_table, train: {folder}/train.csv, test: {folder}/test.csv, tokenizer: {folder}/base, max_length: 10,
    text_pair_column: second, class_names: [negative, positive], validation_size: 100, store: {folder}/prepared}}
model: {{backbone: transformers, name: {folder}/sweep/run-1/checkpoint-25}}
soup: {{methods: [best-individual, uniform, greedy, mehl-plus], settings: {{mehl-plus: {{inner_iterations: 3}}}}}}
registry: {{tracking_uri: "sqlite:///{folder}/mlflow.db"}}
"""
LABELS = {0: "negative", 1: "positive"}


class Payload:
    """A pickle that makes a file when it is read."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def state(step, epoch, **more):
    """``trainer_state.json`` as Trainer writes it: 25 steps an epoch, rates falling to zero, logged every 10 steps."""
    logs = [
        {"epoch": at / 25, "grad_norm": 1.0, "learning_rate": 5e-5 * (1 - at / 50), "loss": 0.7, "step": at}
        for at in range(10, step + 1, 10)
    ]
    logs += [{"epoch": 1.0, "eval_accuracy": 0.99, "eval_loss": 0.6, "eval_runtime": 0.1, "step": 25}]
    return {
        "best_global_step": 25, "best_metric": 0.99, "best_model_checkpoint": "out/checkpoint-25", "epoch": epoch,
        "eval_steps": 500, "global_step": step, "is_hyper_param_search": False, "is_local_process_zero": True,
        "is_world_process_zero": True, "log_history": logs, "logging_steps": 10, "max_steps": 50,
        "num_input_tokens_seen": 0, "num_train_epochs": 2, "save_steps": 500, "stateful_callbacks": {},
        "total_flos": 1e9, "train_batch_size": 16, "trial_name": None, "trial_params": None, **more,
    }  # fmt: skip


def write_checkpoint(folder, network, trainer_state):
    """A folder as Trainer leaves it; reading its training arguments would make a folder ``ran``."""
    network.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "trainer_state.json").write_text(json.dumps(trainer_state))
    (folder / "training_args.bin").write_bytes(pickle.dumps(Payload(folder / "ran")))
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"state": {}}, folder / name)


def fine_tune(network, tokenizer):
    """Sixty steps on the training texts, as Trainer makes them."""
    columns, second = texts(300, 5), texts(300, 9)["text"]
    tokens = tokenizer(columns["text"], second, truncation=True, max_length=10, padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        network(**tokens, labels=torch.tensor(columns["label"])).loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, migrated_store, session_ray):
    folder = tmp_path_factory.mktemp("trainer")
    shutil.copy(migrated_store, folder / "mlflow.db")
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(SPECIAL) + len(WORDS), **sizes, id2label=LABELS)
    network = transformers.BertForSequenceClassification(config)
    write_tokenizer(folder / "base")
    fine_tune(network, transformers.AutoTokenizer.from_pretrained(folder / "base"))
    for path, written in {
        "run-1/checkpoint-25": state(25, 1.0),
        "run-2/checkpoint-50": state(50, 2.0),
        "run-10/checkpoint-40": state(40, 1.6),
        "run-10": state(50, 2.0, log_history=[{"train_runtime": 1800.0, "train_samples_per_second": 1.0, "step": 50}]),
    }.items():
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.02 * torch.randn_like(weight)
        write_checkpoint(folder / "sweep" / path, network, written)
    for name, count in {"train": 300, "test": 100}.items():
        columns = texts(count, len(name))
        write_table(folder / f"{name}.csv", **columns, second=texts(count, 9)["text"])
    (folder / "config.yaml").write_text(SETTINGS.format(folder=folder))
    return folder


def call(folder, command, *arguments):
    return main([command, *map(str, arguments), "--config", str(folder / "config.yaml")])


@pytest.fixture(scope="module")
def finished(folder, caplog_of_module):
    assert call(folder, "import", folder / "sweep") == 0
    assert call(folder, "run", "--stages", "soup") == 0
    return folder


@pytest.fixture(scope="module")
def caplog_of_module():
    import logging

    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("pipeline")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def rows_of(folder):
    return read_table(folder / "run" / "ingredients.parquet", IngredientRecord)


def logits_of_transformers(path, max_length=10):
    """Of the test texts by model and tokenizer of a folder, called as their documentation has it."""
    tokens = transformers.AutoTokenizer.from_pretrained(path)(
        texts(100, 4)["text"], texts(100, 9)["text"], truncation=True, max_length=max_length, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.inference_mode():
        return transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()(**tokens).logits


def asked():
    return pd.DataFrame({"text": texts(100, 4)["text"], "text_pair": texts(100, 9)["text"]})


def test_its_checkpoints_are_measured_and_what_trainer_says_is_taken(finished, caplog_of_module):
    rows = rows_of(finished)
    paths = ["run-1/checkpoint-25", "run-2/checkpoint-50", "run-10"]
    labels = torch.tensor(texts(100, 4)["label"])
    for row, path in zip(rows, paths, strict=True):
        predicted = logits_of_transformers(finished / "sweep" / path).argmax(1)
        assert row.test_accuracy == pytest.approx((predicted == labels).float().mean().item())
        assert 10 < predicted.sum() < 90
    known = [
        (row.hyperparameters["epochs"], row.hyperparameters["lr"], row.hyperparameters["batch_size"]) for row in rows
    ]
    assert known == [(1, pytest.approx(4e-5), 16), (2, pytest.approx(4e-5), 16), (None, None, 16)]
    assert {row.gpu_hours for row in rows} == {0.0}
    said = "\n".join(caplog_of_module)
    assert "lr (the highest that was logged) is taken from trainer_state.json for 2 of 3 checkpoints" in said
    assert "run-10: was trained for 0.50 hours, on what trainer_state.json does not say; give gpu_hours" in said
    assert "run-10: is a model; passed over in it: checkpoint-40 (name them to import them)" in said
    assert "import: run-2/checkpoint-50: validation" in said
    assert not list(finished.rglob("ran")), "a pickle was run"


def test_the_same_command_again_imports_nothing(finished):
    before = rows_of(finished)
    assert call(finished, "import", finished / "sweep") == 0
    assert rows_of(finished) == before


def test_all_of_it_is_verified(finished, caplog):
    caplog.set_level("INFO", "pipeline")
    assert main(["verify", "trained", "--tracking-uri", f"sqlite:///{finished}/mlflow.db"]) == 0
    assert "run 'trained': 3 ingredients and 4 soups are as recorded" in caplog.text


def test_what_is_exported_and_served_is_what_transformers_computes(finished, tmp_path, capsys):
    uri = f"sqlite:///{finished}/mlflow.db"
    out = tmp_path / "out"
    assert main(["export", "trained", "--soup", "uniform", "--tracking-uri", uri, "--out", str(out), "--program"]) == 0
    printed = capsys.readouterr().out
    expected = logits_of_transformers(out, None)
    assert 10 < expected.argmax(1).sum() < 90
    mlflow.set_tracking_uri(uri)
    answer = mlflow.pyfunc.load_model("models:/trained-soup@uniform").predict(asked())
    torch.testing.assert_close(torch.tensor(answer["logits"].tolist()), expected, atol=1e-5, rtol=1e-5)
    assert list(answer["label"]) == [LABELS[label] for label in expected.argmax(1).tolist()]
    state = load_file(out / "model.safetensors")
    parts = [load_file(path / "model.safetensors") for path in find_checkpoints([finished / "sweep"])]
    for name, value in state.items():
        torch.testing.assert_close(value, sum(part[name] for part in parts) / 3)
    exec(printed[printed.index("import torch") :], values := {})
    served = mlflow.pyfunc.load_model("models:/trained-soup@uniform").predict(
        pd.DataFrame({"text": ["the first text", "another"], "text_pair": ["a second text", "another"]})
    )
    torch.testing.assert_close(values["logits"], torch.tensor(served["logits"].tolist()), atol=1e-5, rtol=1e-5)


def test_one_soup_of_the_folder_needs_no_run(folder, tmp_path):
    given = ("--ingredients", folder / "sweep", "--method", "uniform", "--out", tmp_path / "soup.safetensors")
    assert call(folder, "soup", *given) == 0
    soup = load_file(tmp_path / "soup.safetensors")
    parts = [load_file(path / "model.safetensors") for path in find_checkpoints([folder / "sweep"])]
    torch.testing.assert_close(soup["head.weight"], sum(part["classifier.weight"] for part in parts) / 3)


def refused(folder, capsys, *arguments):
    assert call(folder, "import", *arguments, f"output={folder}/refused", "name=refused") == 2
    return capsys.readouterr().err


def test_other_labels_are_refused_and_nothing_is_registered(folder, tmp_path, capsys):
    good, sweep = folder / "sweep" / "run-1" / "checkpoint-25", tmp_path / "sweep"

    def changed(name, config=None, tensors=None):
        path = shutil.copytree(good, sweep / name / "checkpoint-5")
        about = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(about | (config or {})))
        weights = load_file(path / "model.safetensors")
        for tensor in tensors or {}:
            weights[tensor] = tensors[tensor](weights[tensor])
        save_file(weights, path / "model.safetensors", {"format": "pt"})
        return path

    three = {str(label): f"LABEL_{label}" for label in range(3)}
    longer = {name: lambda value: torch.cat([value, value[:1]]) for name in ("classifier.weight", "classifier.bias")}
    changed("turned", {"id2label": {"0": "positive", "1": "negative"}})
    changed("three", {"id2label": three, "label2id": {}}, longer)
    changed("heads", {"num_attention_heads": 4})
    (changed("adapter") / "adapter_config.json").touch()
    said = refused(folder, capsys, sweep, good)
    assert said.startswith("error: 4 of 5 files cannot be imported:")
    assert (
        "turned/checkpoint-5: was made for other classes, or for these in another order: 'positive', 'negative', and "
        "the data have 'negative', 'positive'; if these are the same, say so in data.class_names"
    ) in said
    assert "three/checkpoint-5: does not fit the model: has 'head." in said
    assert "heads/checkpoint-5: its config.json has num_attention_heads 4, the model of the settings 2" in said
    assert "adapter/checkpoint-5: holds an adapter (LoRA, say), not a whole model" in said
    unnamed = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    changed("unnamed", unnamed, {"classifier.bias": lambda value: value + 1})
    path = sweep / "unnamed" / "checkpoint-5"
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")  # without what could be run
    (path / "model.safetensors").unlink()
    (tmp_path / "known.csv").write_text("path,lr,gpu_hours\nunnamed/checkpoint-5,0.5,2\n")
    known = ("--accuracy-file", tmp_path / "known.csv")
    assert call(folder, "import", path, f"output={tmp_path}/run", "name=unnamed", *known) == 0
    [row] = rows_of(tmp_path)
    assert (row.gpu_hours, row.hyperparameters["lr"], row.hyperparameters["epochs"]) == (2, 0.5, 1)
    theirs = pickle.dumps(Payload(tmp_path / "ran"))
    (path / "pytorch_model.bin").write_bytes(theirs)
    assert "would have to be run to be read; save" in refused(folder, capsys, path)
    assert not (tmp_path / "ran").exists()


def test_only_what_is_certain_is_taken_from_a_trainer_state(tmp_path):
    def taken(folder, content):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "trainer_state.json").write_text(content)
        return read_trainer_state(tmp_path / folder)

    assert read_trainer_state(tmp_path) is None
    assert taken("checkpoint-40", json.dumps(state(40, 1.6))).columns == {"lr": pytest.approx(4e-5), "batch_size": 16}
    assert taken("checkpoint-50", json.dumps(state(50, 2.0))).columns["epochs"] == 2
    assert "epochs" not in taken("out", json.dumps(state(50, 2.0))).columns, "the best model may have been saved"
    odd = state(50, "2", log_history=[{"learning_rate": "1e-3"}, {"learning_rate": float("nan")}, 3])
    assert taken("odd", json.dumps(odd | {"train_batch_size": None})).columns == {}
    for content in ("{", "[]", "{}", "[" * 100_000, '{"log_history": 3}'):
        assert taken("broken", content).columns == {}
        assert taken("broken", content).problem
