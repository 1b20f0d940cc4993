"""Mistakes: one line that says what, where and what to do, exit status 2, and nothing lost or counted as done."""

import json
import os
import re
import socket
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from program import CONFIG, ROOT, SCRIPT, SMALL, run_program

from pipeline.commands import main
from pipeline.records import IngredientRecord
from pipeline.records.tables import read_table

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

SETTINGS = str(ROOT / "configs" / "digits.yaml")


@pytest.fixture(scope="module", autouse=True)
def one_ray():
    """The commands of this module share the Ray that the first of them starts."""
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def call(warm_home, image_store, monkeypatch, capsys):
    """Calls the command in this process; returns its exit status, the lines of standard error, and its output."""
    monkeypatch.setenv("PIPELINE_HOME", str(warm_home))

    def calling(*arguments: str) -> tuple[int, list[str], str]:
        os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow sets it for the processes that it may start
        status = main(["run", *arguments, image_store])
        captured = capsys.readouterr()
        return status, captured.err.splitlines(), captured.out

    return calling


@pytest.fixture
def output(warm_home) -> Path:
    return warm_home / "runs" / "digits"


def refused(result: tuple[int, list[str], str], *said: str) -> str:
    status, errors, _ = result
    assert status == 2, errors
    assert len(errors) == 1, errors
    assert errors[0].startswith("error: ")
    for words in said:
        assert words in errors[0]
    return errors[0]


def nothing_counts_as_done(output: Path) -> None:
    assert not (output / "ingredients.parquet").exists()
    if (output / "state.json").exists():
        assert json.loads((output / "state.json").read_text())["done"] == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search.num_trails=3"], ["search.num_trails: unknown key; did you mean 'num_trials'?"]),
        (["soup.methods=[gready]"], ["soup.methods.0: unknown name 'gready'; did you mean 'greedy'?"]),
        (["soup.settings={mehl: {blocksize: 2}}"], ["settings.mehl.blocksize", "did you mean 'block_size'?"]),
        (["search.num_trials"], ["search.num_trials", "write it as dotted.key=value"]),
        (["data.source=parquet"], ["source 'parquet' needs data.train and data.test"]),
        (["--stages", "soup,studdy"], ["--stages: unknown stage 'studdy'; did you mean 'study'?"]),
        (["--stages", "soup"], ["--stages: 'soup' needs 'search', which is not done; add it"]),
    ],
    ids=lambda value: value[-1] if isinstance(value[-1], str) and "=" in value[-1] else "",
)
def test_mistakes_in_the_command(call, output, arguments, said):
    refused(call("--config", SETTINGS, *arguments), *said)
    nothing_counts_as_done(output)


def test_a_config_file_that_is_none(call, tmp_path):
    missing = tmp_path / "nowhere.yaml"
    refused(call("--config", str(missing)), str(missing), "No such file", "see configs/")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [digits\nsoup: {")
    refused(call("--config", str(broken)), str(broken), "is not valid YAML")
    empty = tmp_path / "empty.yaml"
    empty.touch()
    refused(call("--config", str(empty)), str(empty), "must hold settings")
    refused(call("--config", str(tmp_path)), str(tmp_path), "cannot be read")


def test_several_mistakes_are_told_together(call):
    status, errors, _ = call("--config", SETTINGS, "search.num_trails=3", "soup.methods=[gready]")
    assert status == 2
    assert len(errors) == 3
    assert "2 problem" in errors[0]


@pytest.fixture
def images(tmp_path):
    """A configuration of Parquet files with ten images in each of two classes; returns its path and the two files."""
    from PIL import Image

    buffer = pa.BufferOutputStream()
    Image.new("RGB", (8, 8), (200, 10, 90)).save(buffer, "PNG")
    png = buffer.getvalue().to_pybytes()
    files = {}
    for name, count in (("train", 40), ("test", 10)):
        files[name] = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"image": [png] * count, "label": [row % 2 for row in range(count)]}), files[name])
    settings = yaml.safe_load(Path(SETTINGS).read_text())
    settings["data"] = {
        "source": "parquet", "train": str(files["train"]), "test": str(files["test"]), "image_size": 16,
        "class_names": ["cat", "dog"], "validation_size": 20,
    }  # fmt: skip
    settings["model"]["head"] = "random"
    del settings["model"]["contrastive"]
    settings["search"]["num_trials"] = 1
    settings["search"]["distributions"] = {"epochs": 1, "batch_size": 20, "augmentation": "minimal"}
    config = tmp_path / "images.yaml"
    config.write_text(yaml.safe_dump(settings))
    return config, files


def test_images_that_cannot_be_used_and_then_can(call, output, images, tmp_path):
    config, files = images
    only_search = ("--config", str(config), "--stages", "search")
    nowhere = tmp_path / "nowhere.parquet"
    refused(call(*only_search, f"data.train={nowhere}"), "data.train", str(nowhere), "does not exist", "correct")
    nothing_counts_as_done(output)
    refused(call(*only_search, "data.validation_size=1"), "split 'select' is empty", "raise data.validation_size")
    said = ("ask for more than the 40 images", "lower data.validation_size (90)")
    refused(call(*only_search, "data.validation_size=90"), *said)

    good = {name: pq.read_table(file) for name, file in files.items()}
    labels = [*good["test"]["label"].to_pylist()[:-1], 7]
    pq.write_table(pa.table({"image": good["test"]["image"], "label": labels}), files["test"])
    refused(call(*only_search), "data.test", "label 7 in row 9", str(files["test"]), "outside the classes 0 to 1")
    pq.write_table(good["test"], files["test"])

    pixels = good["train"]["image"].to_pylist()
    pixels[23] = pixels[23][:40]
    pq.write_table(pa.table({"image": pixels, "label": good["train"]["label"]}), files["train"])
    refused(call(*only_search), f"{files['train']}, row 23", "1 of 40 images cannot be used", "replace or remove")
    nothing_counts_as_done(output)
    pq.write_table(good["train"], files["train"])

    weights = tmp_path / "weights.safetensors"
    refused(call(*only_search, f"model.pretrained={weights}"), str(weights), "does not exist", "check the path")
    weights.write_bytes(b"no weights")
    refused(call(*only_search, f"model.pretrained={weights}"), str(weights), "is neither safetensors nor")
    nothing_counts_as_done(output)

    refused(call(*only_search, "search.gpus_per_trial=1"), "search.gpus_per_trial", "the cluster has no GPU")
    refused(call(*only_search, "search.cpus_per_trial=4096"), "search.cpus_per_trial", "4096", "cores")
    nothing_counts_as_done(output)

    status, errors, _ = call(*only_search)
    assert (status, errors) == (0, [])
    assert [row.status for row in read_table(output / "ingredients.parquet", IngredientRecord)] == ["finished"]


def test_a_sweep_of_which_nothing_is_left(call, output):
    absurd = "search.distributions={lr: 1.0e+30, epochs: 1, batch_size: 50, augmentation: minimal}"
    first = call("--config", SETTINGS, *SMALL, absurd, "search.num_trials=2")
    refused(first, "none of the 2 trials finished", "not finite in epoch 1", "--fresh")
    assert json.loads((output / "state.json").read_text())["done"] == {}
    rows = read_table(output / "ingredients.parquet", IngredientRecord)
    assert [(row.status, row.sha256) for row in rows] == [("rejected", None)] * 2
    refused(call("--config", SETTINGS, *SMALL, "search.num_trials=2"), "other settings", "--fresh")
    started_over = call("--config", SETTINGS, *SMALL, "search.num_trials=1", "--stages", "search", "--fresh")
    assert started_over[:2] == (0, [])
    assert [row.status for row in read_table(output / "ingredients.parquet", IngredientRecord)] == ["finished"]
    (kept,) = output.parent.glob("digits-until-*")
    assert read_table(kept / "ingredients.parquet", IngredientRecord) == rows


def test_a_tracking_server_that_is_not_there_or_says_nothing(call, output):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        arguments = ("--config", SETTINGS, f"registry.tracking_uri={uri}")
        refused(call(*arguments), "registry.tracking_uri", uri, "cannot be reached", "start the server")
        silent.listen()
        start = time.monotonic()
        refused(call(*arguments), "registry.tracking_uri", uri, "cannot be reached", "start the server")
        assert time.monotonic() - start < 30
    assert not output.exists()


def test_the_folder_of_another_run(finished):
    before = (finished.output / "config.yaml").read_bytes()
    for change in ("seed=1", "model.head=random"):
        done = run_program(SCRIPT, *CONFIG, *SMALL, change, home=finished.home)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert re.search(rf"{finished.output}: holds a run with other settings: {change.partition('=')[0]}\.", line)
        assert "Give another `output`" in line
    done = run_program(SCRIPT, *CONFIG, *SMALL, "search.num_trials=2", home=finished.home)
    assert done.returncode == 2
    assert "a sweep can grow, not shrink" in done.stderr
    assert (finished.output / "config.yaml").read_bytes() == before


def test_a_folder_of_something_else(call, output):
    output.mkdir()
    (output / "thesis.tex").write_text("years of work")
    refused(call("--config", SETTINGS), str(output), "holds no run", "give another folder")
    refused(call("--config", SETTINGS, "--fresh"), str(output), "holds no run", "give another folder")
    assert (output / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    "arguments", [["search.num_trails=3"], ["data.source=image_folder", "data.train=x", "data.test=y"]]
)
def test_a_mistake_through_the_real_command_line(warm_home, arguments):
    done = run_program(SCRIPT, *CONFIG, *arguments, home=warm_home)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stdout


def test_an_argument_that_is_none(tmp_path):
    done = run_program(SCRIPT, "--confg", "configs/digits.yaml", home=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
