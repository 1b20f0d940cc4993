"""Checkpoints made elsewhere as the ingredients of a run: registered, measured, souped, reported."""

import copy
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Literal

import open_clip
import pytest
import torch
from pydantic import Field
from safetensors.torch import load_file
from samples import CLIP, ingredient, special_files
from sklearn.metrics import f1_score

from pipeline.commands import main
from pipeline.commands.common import known_names
from pipeline.commands.import_ import find_checkpoints, read_accuracy_file
from pipeline.config import load_config
from pipeline.data import load_splits
from pipeline.errors import ConfigError
from pipeline.evaluation import accuracy, predict
from pipeline.models import build_classifier
from pipeline.records import CostRecord, Hyperparameters, IngredientRecord, RunRecord, SoupRecord
from pipeline.records.tables import read_table
from pipeline.registry import find_sweep, list_ingredients, list_soups
from pipeline.stages.imported import _changed_names
from pipeline.weights import save_weights

SETTINGS = """
name: imported
precision: bfloat16  # in which many images of untrained models change their class
output: {folder}/run
data:
  {{source: digits, image_size: 8, store: {folder}/images, train_size: 100, validation_size: 150, test_size: 120}}
model:
  backbone: open_clip
  architecture: {{embed_dim: 16, vision_cfg: {{image_size: 8, patch_size: 2, width: 16, layers: 1, head_width: 8,
                  mlp_ratio: 2.0}}}}
soup: {{methods: [best-individual, uniform, greedy, mehl-plus], settings: {{mehl-plus: {{inner_iterations: 3}}}}}}
study: {{cost_accuracy: {{methods: [uniform], step: 2}}}}
registry: {{tracking_uri: "sqlite:///{folder}/mlflow.db"}}
"""
COUNT = 4


def call(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def settings(tmp_path_factory, migrated_store, session_ray):
    """Where a run goes, its settings, and checkpoints around one starting point."""
    folder = tmp_path_factory.mktemp("import")
    shutil.copy(migrated_store, folder / "mlflow.db")
    (folder / "config.yaml").write_text(SETTINGS.format(folder=folder))
    config = load_config(folder / "config.yaml", [], known_names)
    torch.manual_seed(0)
    theta0 = build_classifier(config.model, 10).state_dict()
    (folder / "checkpoints").mkdir()
    torch.save(theta0, folder / "theta0.pt")
    for number in (1, 2, 3, 10):  # by name, 10 comes before 2
        state = {name: value + 0.02 * torch.randn_like(value) for name, value in theta0.items()}
        torch.save({"state_dict": state}, folder / "checkpoints" / f"model_{number}.pt")
    lines = ["path,gpu_hours,val_accuracy,lr", "model_1.pt,1.5,,1e-4", "model_2,2.5,0.75,", "model_10.pt,0.5,,"]
    (folder / "costs.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def finished(settings):
    command = ["import", settings / "checkpoints", "--config", settings / "config.yaml"]
    assert call(*command, "--accuracy-file", settings / "costs.csv", "--theta0", settings / "theta0.pt") == 0
    assert call("run", "--config", settings / "config.yaml") == 0
    return settings


def rows_of(folder):
    return read_table(folder / "run" / "ingredients.parquet", IngredientRecord)


def test_what_is_known_is_taken_and_the_rest_is_measured(finished):
    config = load_config(finished / "config.yaml", [], known_names)
    splits = load_splits(config.data, config.seed)
    rows = rows_of(finished)
    assert [row.gpu_hours for row in rows] == [1.5, 2.5, 0.0, 0.5]
    assert [row.lr for row in rows] == [1e-4, None, None, None]
    assert {(row.device, row.status, row.epochs) for row in rows} == {("imported", "finished", None)}
    assert rows[1].val_accuracy == 0.75
    model = build_classifier(config.model, 10)
    for row, number in zip(rows, (1, 2, 3, 10), strict=True):
        path = finished / "checkpoints" / f"model_{number}.pt"
        model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        for name, split in {"val": "fit", "select": "select", "test": "test"}.items():
            images, labels = getattr(splits, split).tensors()
            if (name, number) != ("val", 2):
                assert getattr(row, f"{name}_accuracy") == accuracy(predict(model, images, "cpu", "bfloat16"), labels)


def test_by_another_metric_what_is_known_is_kept_and_scores_are_measured(settings, tmp_path, capsys):
    shutil.copy(settings / "mlflow.db", tmp_path / "mlflow.db")
    (tmp_path / "config.yaml").write_text(SETTINGS.format(folder=tmp_path))
    command = ["import", settings / "checkpoints", "--config", tmp_path / "config.yaml"]
    given = ["--accuracy-file", settings / "costs.csv", "--theta0", settings / "theta0.pt"]
    assert call(*command, *given, "data.metric=macro_f1", "name=scored") == 0
    config = load_config(tmp_path / "config.yaml", [], known_names)
    splits, model = load_splits(config.data, config.seed), build_classifier(config.model, 10)
    rows = rows_of(tmp_path)
    assert rows[1].val_accuracy == 0.75
    for row, number in zip(rows, (1, 2, 3, 10), strict=True):
        path = settings / "checkpoints" / f"model_{number}.pt"
        model.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        images, labels = splits.fit.tensors()
        predictions = predict(model, images, "cpu", "bfloat16").argmax(1)
        assert row.scores.keys() == {"val_score", "select_score", "test_score"}
        there = labels.unique()
        expected = f1_score(labels, predictions, average="macro", labels=there, zero_division=0)
        assert row.val_score == pytest.approx(expected)
    record = RunRecord.model_validate_json((tmp_path / "run" / "run.json").read_text())
    assert record.metric == "macro_f1"
    assert record.theta0_scores.keys() == {"val", "select", "test"}


def test_soups_and_costs_are_made_of_them(finished):
    soups = read_table(finished / "run" / "soups.parquet", SoupRecord)
    assert [soup.method for soup in soups] == ["best-individual", "uniform", "greedy", "mehl-plus"]
    assert {soup.num_ingredients for soup in soups} == {COUNT}
    costs = read_table(finished / "run" / "cost_accuracy.parquet", CostRecord)
    assert [(row.num_ingredients, row.gpu_hours) for row in costs] == [(2, 4.0), (4, 4.5)]
    page = (finished / "run" / "report.html").read_text()
    assert "The sweep of 4 trials (all finished) cost 4.5&nbsp;GPU hours." in page
    record = RunRecord.model_validate_json((finished / "run" / "run.json").read_text())
    assert record.theta0_gpu_hours is None
    assert record.precision == "bfloat16"
    assert "<dt>Arithmetic</dt><dd>bfloat16</dd>" in page
    assert None not in (record.theta0_val_accuracy, record.theta0_select_accuracy, record.theta0_test_accuracy)
    assert f'Starting point</th><td class="number">{100 * record.theta0_val_accuracy:.2f}</td>' in page
    assert record.theta0_sha256 == rows_of(finished)[0].theta0_sha256
    uri = f"sqlite:///{finished / 'mlflow.db'}"
    assert {soup.lineage.precision for soup in list_soups(find_sweep(uri, "imported"))} == {"bfloat16"}
    assert call("verify", "imported", "--tracking-uri", uri) == 0


def test_a_second_import_doubles_nothing_and_may_add(finished, caplog):
    caplog.set_level("INFO", "pipeline")
    uri = f"sqlite:///{finished / 'mlflow.db'}"
    before = list_ingredients(find_sweep(uri, "imported"))
    command = ["import", finished / "checkpoints", "--config", finished / "config.yaml"]
    assert call(*command, "--theta0", finished / "theta0.pt") == 0
    assert list_ingredients(find_sweep(uri, "imported")) == before
    assert call("run", "--config", finished / "config.yaml") == 0
    assert "everything is done already" in caplog.text
    state = torch.load(finished / "checkpoints" / "model_1.pt", weights_only=True)["state_dict"]
    (finished / "more").mkdir()
    torch.save({name: value + 0.01 for name, value in state.items()}, finished / "more" / "model_0.pt")
    command[1] = finished / "more"
    assert call(*command, "--theta0", finished / "theta0.pt") == 0
    assert [row.trial_index for row in rows_of(finished)] == [0, 1, 2, 3, 4]
    assert call("run", "--config", finished / "config.yaml", "--stages", "soup") == 0
    assert read_table(finished / "run" / "soups.parquet", SoupRecord)[0].num_ingredients == COUNT + 1


def test_a_run_can_leave_out_an_ingredient_by_name(finished, capsys, caplog):
    caplog.set_level("INFO", "pipeline")
    command = ("run", "--config", finished / "config.yaml")
    everything = rows_of(finished)
    count = len(everything)
    assert call(*command, "soup.leave_out=[model_2.pt, 0]") == 0
    assert f"  {count - 2} of {count} trials finished, 2 left out, " in capsys.readouterr().out
    assert "left out by soup.leave_out: 0, model_2.pt" in caplog.text
    rows = rows_of(finished)
    assert [row.status for row in rows[:3]] == ["left-out", "left-out", "finished"]
    assert rows[1].reason == "soup.leave_out names model_2.pt"
    assert {row.num_ingredients for row in read_table(finished / "run" / "soups.parquet", SoupRecord)} == {count - 2}
    costs = read_table(finished / "run" / "cost_accuracy.parquet", CostRecord)
    assert costs[-1].gpu_hours == sum(row.gpu_hours for row in everything)  # what was paid was paid
    assert "2 left-out" in (finished / "run" / "report.html").read_text()
    for names, said in {
        "[model_22.pt]": f"'model_22.pt' names none of the {count} ingredients; did you mean 'model_2.pt'?",
        f"[{count}]": f"'{count}' names none of the {count} ingredients; there are 0 to {count - 1}",
        str(list(range(count))): "soup.leave_out: names all ingredients; leave one",
        "[0, 0]": "listed twice: 0",
    }.items():
        assert call(*command, f"soup.leave_out={names}") == 2
        assert said in capsys.readouterr().err
    caplog.clear()
    assert call(*command) == 0
    assert rows_of(finished) == everything
    assert read_table(finished / "run" / "soups.parquet", SoupRecord)[0].num_ingredients == count


def test_raw_or_averaged_weights_are_taken_as_asked_and_recorded(settings, tmp_path, capsys, caplog):
    caplog.set_level("INFO", "pipeline")
    first, second = (
        torch.load(settings / "checkpoints" / f"model_{number}.pt", weights_only=True)["state_dict"]
        for number in (1, 2)
    )
    torch.save({"state_dict": first, "state_dict_ema": second}, tmp_path / "both.pt")
    torch.save({"state_dict": second}, tmp_path / "one.pt")
    assert fresh(settings, tmp_path, tmp_path / "both.pt", "name=ema", "--weights", "raw") == 0
    assert "import: both.pt: raw weights (state_dict) are taken, averaged ones are beside them" in caplog.text
    sweep = find_sweep(f"sqlite:///{settings / 'mlflow.db'}", "ema")
    [version] = sweep.client().search_model_versions(f"name = '{sweep.ingredient_model}'")
    assert version.tags["imported_weights"] == "raw (state_dict)"
    stored = load_file(version.tags["path"].removeprefix("file://"))
    assert all(torch.equal(stored[name], first[name]) for name in stored)
    assert fresh(settings, tmp_path, tmp_path / "one.pt", "name=ema") == 2
    assert "--weights: is auto, but the ingredients of" in capsys.readouterr().err
    assert fresh(settings, tmp_path, tmp_path / "one.pt", "name=ema", "--weights", "averaged", "--fresh") == 2
    assert "one.pt: holds no averaged weights, only raw ones" in capsys.readouterr().err


def test_files_that_could_not_be_souped_are_refused_when_imported(settings, tmp_path, capsys, caplog):
    caplog.set_level("INFO", "pipeline")
    state = torch.load(settings / "checkpoints" / "model_1.pt", weights_only=True)["state_dict"]
    (tmp_path / "c").mkdir()

    def write(name, **change):
        torch.save(
            {**state, **{key.replace("_at_", "."): value for key, value in change.items()}}, tmp_path / "c" / name
        )

    bias = state["head.bias"]
    write("nan.pt", head_at_bias=bias * float("nan"))
    write("infinite.pt", head_at_bias=torch.full_like(bias, float("inf")))
    write("whole.pt", head_at_bias=bias.to(torch.int64))
    write("meta.pt", head_at_bias=bias.to("meta"))
    with zipfile.ZipFile(tmp_path / "c" / "deep.pt", "w") as archive:  # a key nested so deep that reading it crashes
        archive.writestr("archive/data.pkl", b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.")
        archive.writestr("archive/version", "3\n")
    write("mask.pt", mask=torch.full((3,), float("-inf")), head_at_bias=bias + 1)
    save_weights({**state, "head.bias": bias + 2}, tmp_path / "c" / "names.safetensors", {"class_names": "[cat, dog]"})
    header = {"theta0_sha256": "x\n" * 9999}
    save_weights({**state, "head.bias": bias + 3}, tmp_path / "c" / "origin.safetensors", header)
    assert fresh(settings, tmp_path, tmp_path / "c", "name=unfit") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: 5 of 8 files cannot be imported:\n")
    assert "deep.pt: the process that read it was lost (" in said
    assert "nan.pt: 'head.bias' has NaN values; leave it out" in said
    assert "infinite.pt: 'head.bias' has infinite values; leave it out" in said
    assert "whole.pt: does not fit the model: has 'head.bias' as int64, the model as float32" in said
    assert "meta.pt: 'head.bias' has a shape but no values" in said
    good = [tmp_path / "c" / name for name in ("mask.pt", "names.safetensors", "origin.safetensors")]
    assert fresh(settings, tmp_path, *good, "name=unfit") == 0
    assert "import: mask.pt: constants that the model lacks were passed over (mask)" in caplog.text
    assert "import: names.safetensors: class_names in the header is no list of names in JSON and was not" in caplog.text
    assert "import: origin.safetensors: theta0_sha256 in the header is no SHA-256 and was not compared" in caplog.text


def fresh(settings, tmp_path, *arguments):
    """An import into a run of its own."""
    return call("import", *arguments, "--config", settings / "config.yaml", f"output={tmp_path / 'run'}")


def test_files_that_do_not_fit_are_all_named_and_none_is_registered(settings, tmp_path, capsys):
    folder = shutil.copytree(settings / "checkpoints", tmp_path / "checkpoints")
    state = torch.load(folder / "model_2.pt", weights_only=True)["state_dict"]
    state["tower.extra"] = state.pop("tower.ln_post.bias")
    torch.save(state, folder / "model_2.pt")
    (folder / "model_3.pt").write_bytes(b"nothing")
    shutil.copy(folder / "model_1.pt", folder / "again.pt")
    assert fresh(settings, tmp_path, folder, f"name=bad-{tmp_path.name}") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: 3 of 5 files cannot be imported:\n")
    assert "model_2.pt: does not fit the model: lacks 'tower.ln_post.bias'; has 'tower.extra', which the model" in said
    assert "model_3.pt: is neither safetensors nor a file of torch.save" in said
    assert f"model_1.pt: holds the same weights as {folder / 'again.pt'}; leave one of them out" in said
    sweep = find_sweep(f"sqlite:///{settings / 'mlflow.db'}", f"bad-{tmp_path.name}")
    assert list_ingredients(sweep) == []
    assert said.endswith("--leave-out NAME, once for each, imports the others\n")
    without = [option for name in ("again", "model_2.pt", folder / "model_3.pt") for option in ("--leave-out", name)]
    assert fresh(settings, tmp_path, folder, f"name=bad-{tmp_path.name}", *without) == 0
    assert [Path(path).name for path in json.loads((tmp_path / "run" / "state.json").read_text())["imported"]] == [
        "model_1.pt",
        "model_10.pt",
    ]
    shutil.copy(folder / "model_1.pt", folder / "model_2.pt")  # also of what the run has already
    assert fresh(settings, tmp_path, folder / "model_2.pt", f"name=bad-{tmp_path.name}") == 2
    assert f"model_2.pt: holds the same weights as {folder / 'model_1.pt'}" in capsys.readouterr().err
    name = f"name=bad-{tmp_path.name}"
    assert fresh(settings, tmp_path, folder / "model_1.pt", folder / "model_3.pt", name, "--leave-out", "model_1") == 2
    assert "model_1.pt is imported; no soup is made of it with `soup.leave_out=[model_1.pt]`" in capsys.readouterr().err
    assert fresh(settings, tmp_path, folder, "--leave-out", "model_3.pth") == 2
    assert "--leave-out: 'model_3.pth' names none of the 5 ingredients; did you mean 'model_3.pt'?" in (
        capsys.readouterr().err
    )
    assert len(list_ingredients(sweep)) == 2


def test_a_run_that_was_imported_is_started_over_by_import_alone(settings, tmp_path, capsys):
    assert fresh(settings, tmp_path, settings / "checkpoints", "name=over") == 0
    run = ("run", "--config", settings / "config.yaml", f"output={tmp_path / 'run'}", "name=over")
    assert call(*run, "--fresh") == 2
    assert "give `python -m pipeline import --fresh`" in capsys.readouterr().err
    # With other settings of the model, which an import cannot take over.
    few = settings / "checkpoints" / "model_1.pt"
    assert fresh(settings, tmp_path, few, "name=over", "model.mean=[0.5, 0.5, 0.5]", "model.std=[1, 1, 1]") == 2
    assert "holds a run with other settings: model.mean, model.std" in capsys.readouterr().err
    assert fresh(settings, tmp_path, few, "name=over", "--fresh") == 0
    assert len(rows_of(tmp_path)) == 1
    assert len(list(tmp_path.glob("run-until-*"))) == 1


def test_what_is_known_cannot_change_afterwards(settings, tmp_path, capsys):
    assert fresh(settings, tmp_path, settings / "checkpoints", "name=known") == 0
    assert "Next: python pipeline/run.py --config" in (said := capsys.readouterr().out)
    assert f"name=known output={tmp_path / 'run'}\n" in said
    late = fresh(settings, tmp_path, settings / "checkpoints", "name=known", "--accuracy-file", settings / "costs.csv")
    assert late == 2
    assert "model_1.pt is imported with another gpu_hours" in capsys.readouterr().err


def test_the_starting_point_stays_that_of_the_run(settings, tmp_path, capsys):
    first, second = (settings / "checkpoints" / f"model_{number}.pt" for number in (1, 2))
    theta0 = ("--theta0", settings / "theta0.pt")
    assert fresh(settings, tmp_path, first, "name=origin", *theta0) == 0
    assert fresh(settings, tmp_path, second, "name=origin") == 0
    assert len({row.theta0_sha256 for row in rows_of(tmp_path)}) == 1
    assert fresh(settings, tmp_path, second, "name=origin", "--theta0", settings / "checkpoints" / "model_3.pt") == 2
    assert "different starting points" in capsys.readouterr().err
    assert call("run", "--config", settings / "config.yaml", f"output={tmp_path / 'run'}", "name=origin") == 0
    unnamed = tmp_path / "unnamed"
    assert fresh(settings, unnamed, first, "name=unnamed") == 0
    assert fresh(settings, unnamed, second, "name=unnamed", *theta0) == 2
    assert "give all of them again, with --theta0 and --fresh" in capsys.readouterr().err


@pytest.mark.system
def test_an_added_checkpoint_reaches_the_soups_although_its_import_was_interrupted(settings, tmp_path, monkeypatch):
    first, second = (settings / "checkpoints" / f"model_{number}.pt" for number in (1, 2))
    assert fresh(settings, tmp_path, first, "name=added") == 0
    run = ("run", "--config", settings / "config.yaml", f"output={tmp_path / 'run'}", "name=added")
    assert call(*run, "--stages", "soup") == 0
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.imported.IngredientRecorder", interrupted)
        assert fresh(settings, tmp_path, second, "name=added") == 130
    assert call(*run, "--stages", "soup") == 2  # half an import
    assert fresh(settings, tmp_path, second, "name=added") == 0
    assert call(*run, "--stages", "soup") == 0
    assert read_table(tmp_path / "run" / "soups.parquet", SoupRecord)[0].num_ingredients == 2


def interrupted(*args):
    raise KeyboardInterrupt


def test_half_an_import_is_not_taken_for_a_whole_one(finished, tmp_path, capsys):
    shutil.copytree(finished / "run", tmp_path / "run")
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    state.update(imported=[*state["imported"], "/models/model_11.pt"], done={})
    (tmp_path / "run" / "state.json").write_text(json.dumps(state))
    assert call("run", "--config", finished / "config.yaml", f"output={tmp_path / 'run'}") == 2
    said = capsys.readouterr().err
    assert re.search(r"[45] of the [56] checkpoints of this run are imported; give the command `import` again", said)


def test_checkpoints_of_different_starting_points_are_refused(settings, tmp_path, capsys):
    for number in range(2):
        state = torch.load(settings / "checkpoints" / f"model_{number + 1}.pt", weights_only=True)["state_dict"]
        save_weights(state, tmp_path / "c" / f"{number}.safetensors", {"theta0_sha256": f"{number}" * 64})
    assert fresh(settings, tmp_path, tmp_path / "c", "name=origins") == 2
    assert "different starting points (theta0_sha256 000000000000, 111111111111)" in capsys.readouterr().err


@pytest.mark.system
def test_without_theta0_there_is_no_wise_ft(settings, tmp_path, capsys):
    output, name = f"output={tmp_path / 'run'}", "name=no-theta0"
    soups = ["soup.methods=[uniform, wise-ft]"]
    assert fresh(settings, tmp_path, settings / "checkpoints", name) == 0
    shown = capsys.readouterr()
    assert "Next: python pipeline/run.py" in shown.out
    assert call("run", "--config", settings / "config.yaml", output, name, *soups) == 2
    assert "wise-ft needs theta0" in capsys.readouterr().err
    assert call("run", "--config", settings / "config.yaml", output, name) == 0  # and no cost is known
    assert (tmp_path / "run" / "report.html").exists()


def test_a_tower_without_a_head_gets_one_from_its_own_text_tower(settings, tmp_path):
    torch.manual_seed(1)
    architecture = "model.architecture=" + str(CLIP).replace("'", "")
    for number in range(2):
        clip = open_clip.model.CLIP(**copy.deepcopy(CLIP))
        torch.save(clip.state_dict(), tmp_path / f"clip{number}.pt")
    files = [tmp_path / f"clip{number}.pt" for number in range(2)]
    assert fresh(settings, tmp_path, *files, "name=headless", architecture, "model.head=zero_shot") == 0
    first, second = rows_of(tmp_path)
    assert first.sha256 != second.sha256
    assert first.test_accuracy is not None


def test_transformers_folders_without_a_head(settings, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 2, "projection_dim": 16, "hidden_act": "gelu",
    }  # fmt: skip
    for number in range(2):
        clip = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**vision))
        clip.save_pretrained(tmp_path / "hub" / f"clip-{number}")
    assert fresh(settings, tmp_path, tmp_path / "hub", "name=hub") == 0  # with a linear probe for each
    assert len(rows_of(tmp_path)) == 2
    architecture = "model.architecture=" + str(CLIP).replace("'", "")
    assert fresh(settings, tmp_path / "zs", tmp_path / "hub", "name=zs", architecture, "model.head=zero_shot") == 2
    assert "'zero_shot' needs a text tower" in capsys.readouterr().err


def test_files_of_other_classes_are_refused(settings, tmp_path, capsys):
    state = torch.load(settings / "checkpoints" / "model_1.pt", weights_only=True)["state_dict"]
    save_weights(state, tmp_path / "a.safetensors", {"class_names": json.dumps(list("0987654321"))})
    assert fresh(settings, tmp_path, tmp_path / "a.safetensors", "name=classes") == 2
    assert "a.safetensors: was made for other classes, or for these in another order" in capsys.readouterr().err


def test_a_run_of_trials_is_not_imported_into(settings, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    for name in ("run.json", "state.json", "config.yaml"):
        shutil.copy(settings / "run" / name, tmp_path / "run" / name)
    text = (tmp_path / "run" / "state.json").read_text()
    (tmp_path / "run" / "state.json").write_text(text.replace('"imported": [', '"imported": [], "done_": ['))
    assert fresh(settings, tmp_path, settings / "checkpoints") == 2
    assert "holds a sweep of trials" in capsys.readouterr().err


def test_checkpoints_are_found_in_natural_order_and_what_else_there_is_is_named(tmp_path, caplog):
    for name in ("model_10.pt", "model_9.safetensors", "notes.txt", "model_2.ckpt"):
        (tmp_path / name).touch()
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").touch()
    others = ("optimizer.pt", "._model_9.pt", "training_args.bin", "rng_state_0.pth", "model_2_optim.pt")
    for name in others:
        (tmp_path / name).touch()
    caplog.set_level("INFO", "pipeline")
    found = find_checkpoints([tmp_path, tmp_path / "model_2.ckpt"])
    assert [path.name for path in found] == ["hub", "model_2.ckpt", "model_9.safetensors", "model_10.pt"]
    assert f"{tmp_path}: passed over, as no checkpoints: " in caplog.text
    assert all(name in caplog.text for name in (*others, "notes.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty: holds no checkpoint"):
        find_checkpoints([tmp_path / "empty"])
    for gone, said in (
        (tmp_path / "gone", f"{tmp_path}/gone: does not exist; check the path"),
        ("~nobody-of-this-name/a.pt", "begins with a home folder that there is not"),
        (tmp_path / ("x" * 300), "is too long: its longest name has 300 bytes"),
    ):
        with pytest.raises(ConfigError, match=said):
            find_checkpoints([gone])
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError) as caught:
        find_checkpoints([tmp_path / "link.pt", tmp_path / "gone"])
    link, gone = str(caught.value).split("\n  ")
    assert link == f"{tmp_path / 'link.pt'}: is a link to {tmp_path / 'gone'}, which does not exist; check the path"
    assert gone.startswith(f"{tmp_path / 'gone'}: does not exist")
    (tmp_path / "odd").mkdir()
    special_files(tmp_path / "odd", ".pt")
    (tmp_path / "odd" / "²").touch()  # a digit, of which no number can be made
    assert len(find_checkpoints([tmp_path / "odd"])) == 4  # each of which is refused by its name
    for name, said in {
        "a\nb.pt": r"a\nb.pt': has control characters",
        os.fsdecode(b"\xff.pt"): r"\udcff.pt': has",
    }.items():
        (tmp_path / "odd" / name).touch()
        with pytest.raises(ConfigError) as caught:
            find_checkpoints([tmp_path / "odd"])
        assert said in str(caught.value)
        (tmp_path / "odd" / name).unlink()
    (tmp_path / "parts").mkdir()
    for name in ("model-00001-of-00001.safetensors", "model.safetensors.index.json"):
        (tmp_path / "parts" / name).touch()
    assert find_checkpoints([tmp_path / "parts"]) == [tmp_path / "parts"]  # one model in several files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,gpu_hours\na.pt,1", "has no column 'path' but 'file', 'gpu_hours'"),
        ("path;gpu_hours\na.pt;1", "has no column 'path' but 'path;gpu_hours'; name it in the first line, with commas"),
        ("", "is empty; its first line must name the columns"),
        ("path,lr,lr\na.pt,1,1", "has two columns 'lr'; leave one of them"),
        ("path,lr\na.pt,1,1", "line 2: has more cells than the first line has columns"),
        ("path,gpu_huors\na.pt,1", "unknown column 'gpu_huors'; did you mean 'gpu_hours'?"),
        ("path,gpu_hours\nb.pt,1", "line 2: 'b.pt' names none of the checkpoints"),
        ("path,gpu_hours\na.pt,1\na,2", "line 3: 'a' was named before"),
        ("gpu_hours,path\n1", "line 2: '' names none of the checkpoints"),
        ("\ufeffpath,lr\na.pt,-1", "line 2, column 'lr': Input should be greater than or equal to 0"),
        ("path,cpu_core_hours\na.pt,-1", "column 'cpu_core_hours': Input should be greater than or equal to 0"),
        ("path,gpu_hours\na.pt,much", "line 2, column 'gpu_hours': Input should be a valid number"),
        (
            "path,test_accuracy\na.pt,91.2",
            "line 2, column 'test_accuracy': Input should be less than or equal to 1, got '91.2'",
        ),
    ],
)
def test_mistakes_in_the_accuracy_file(tmp_path, text, said):
    (tmp_path / "known.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_accuracy_file(tmp_path / "known.csv", [Path("/models/a.pt")])
    assert said in str(caught.value)
    assert str(tmp_path / "known.csv") in str(caught.value) or "unknown column" in said


def test_an_accuracy_file_that_is_none(tmp_path):
    for path in (*special_files(tmp_path), tmp_path / "gone", tmp_path):
        with pytest.raises(ConfigError, match=f"--accuracy-file: {path} (is a pipe, a socket or|cannot be read)"):
            read_accuracy_file(path, [Path("/models/a.pt")])


class Own(Hyperparameters):
    """Of a trainer that has some hyperparameters of its own."""

    layer_decay: float = Field(0.5, gt=0, le=1)
    frozen_layers: int = 0
    optimizer: Literal["adamw", "lion"] = "adamw"


def test_hyperparameters_of_a_trainers_own_are_columns_of_their_types(tmp_path):
    text = "path,optimizer,layer_decay,lr,frozen_layers\na.pt,lion,0.75,1e-4,3\nb.pt,,,,\n"
    (tmp_path / "known.csv").write_text(text)
    a, b = Path("/models/a.pt"), Path("/models/b.pt")
    columns_of = read_accuracy_file(tmp_path / "known.csv", [a, b], Own)
    assert columns_of == {a: {"optimizer": "lion", "layer_decay": 0.75, "lr": "1e-4", "frozen_layers": 3}, b: {}}
    assert type(columns_of[a]["frozen_layers"]) is int
    with pytest.raises(ConfigError, match="unknown column 'optimizer'"):
        read_accuracy_file(tmp_path / "known.csv", [a, b])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,layer_decay\na.pt,2", "line 2, column 'layer_decay': Input should be less than or equal to 1, got '2'"),
        ("path,layer_decay\na.pt,nan", "column 'layer_decay': Input should be a finite number, got 'nan'"),
        ("path,frozen_layers\na.pt,few", "column 'frozen_layers': Input should be a valid integer"),
        ("path,optimizer\na.pt,sgd", "column 'optimizer': Input should be 'adamw' or 'lion', got 'sgd'"),
        ("path,layer_decay,lr\na.pt,1,-1", "column 'lr': Input should be greater than or equal to 0, got '-1'"),
        ("path,layer_decai\na.pt,1", "unknown column 'layer_decai'; did you mean 'layer_decay'?"),
    ],
)
def test_mistakes_in_a_trainers_own_columns(tmp_path, text, said):
    (tmp_path / "known.csv").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_accuracy_file(tmp_path / "known.csv", [Path("/models/a.pt")], Own)
    assert said in str(caught.value)


def test_a_hyperparameter_that_is_given_later_is_a_change():
    """Also one of a trainer's own, which the registered record has not."""
    row = ingredient(0).model_copy(update={"lr": 0.5})
    registered = ingredient(0)
    assert _changed_names(registered, None) == []
    assert _changed_names(registered, registered) == []
    given = IngredientRecord.model_validate({**row.model_dump(), "layer_decay": 0.75})
    assert _changed_names(given, registered) == ["lr", "layer_decay"]
