"""A package from outside (tests/outside/bistro) brings one thing of each kind, and the whole line runs with it."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from nodes import RAY, head_node
from PIL import Image
from program import MLFLOW, ROOT, Background, Finished, environment, free_ports, needs_mlflow, wait_for_server

from pipeline.records import IngredientRecord, SoupRecord
from pipeline.records.folder import RunFolder, read_run
from pipeline.records.tables import read_table

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]
# Their network has BatchNorm, so that a row says what renewing its statistics does alone.
METHODS = ["best-individual", "best-individual-renewed", "uniform", "greedy", "model-stock"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder of somebody who has this package installed: their package and their settings, nothing of ours."""
    return Path(shutil.copytree(ROOT / "tests" / "outside", tmp_path_factory.mktemp("project") / "theirs"))


def command(project: Path, home: Path, *arguments: str) -> str:
    """What a command of ours says in the project's folder."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=project, env=environment(home), capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def home(project, tmp_path_factory):
    """The whole line, run once."""
    home = tmp_path_factory.mktemp("home")
    said = command(project, home, "run", "--config", "bistro.yaml")
    assert "model-stock" in said
    return home


@pytest.fixture(scope="module")
def uri(home):
    return f"sqlite:///{home / 'runs' / 'mlflow.db'}"


def check_records(folder: RunFolder) -> None:
    rows = read_table(folder.ingredients, IngredientRecord)
    assert [row.status for row in rows] == ["finished"] * 4
    assert all(0.5 <= row.hyperparameters["momentum"] <= 0.95 for row in rows)
    assert len({row.hyperparameters["momentum"] for row in rows}) == 4
    soups = read_table(folder.soups, SoupRecord)
    assert [row.method for row in soups] == METHODS
    assert read_run(folder).labels["model-stock"] == "Model Stock"
    assert folder.table("leave_one_out").exists()
    assert {path.name for path in folder.figures.glob("leave_one_out.*")} == {"leave_one_out.png", "leave_one_out.svg"}
    html = folder.report.read_text()
    for text in ("Model Stock", "What each ingredient is worth", "Momentum", "Test accuracy of the worst class"):
        assert text in html
    assert read_run(folder).metric == "worst_class"
    assert all(0 <= row.test_score <= row.test_accuracy for row in soups)


def test_the_dry_run_shows_their_hyperparameter(project, tmp_path):
    said = command(project, tmp_path, "search", "--dry-run", "--config", "bistro.yaml")
    assert said.splitlines()[1].split()[-1] == "momentum"


def test_search_soups_study_and_report(home):
    check_records(RunFolder(home / "runs" / "bistro"))


def test_the_same_command_again_has_nothing_to_do(project, home):
    assert "everything is done already" in command(project, home, "run", "--config", "bistro.yaml")


def test_verify_finds_all_as_recorded(project, home, uri):
    said = command(project, home, "verify", "bistro", "--tracking-uri", uri)
    assert "run 'bistro': 5 ingredients and 5 soups are as recorded" in said


def test_a_report_of_the_records_alone(project, home, tmp_path):
    command(project, home, "report", str(home / "runs" / "bistro"), "--out", str(tmp_path / "page.html"))
    assert "What each ingredient is worth" in (tmp_path / "page.html").read_text()


def test_a_plug_in_that_is_away_is_one_clear_line(home, uri, tmp_path):
    for arguments in (
        ("verify", "bistro", "--tracking-uri", uri),
        ("report", str(home / "runs" / "bistro"), "--out", str(tmp_path / "page.html")),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=tmp_path, env=environment(home), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("error: plugins: 'bistro' cannot be imported (ModuleNotFoundError: ")
        assert len(done.stderr.splitlines()) == 1


def test_a_plug_in_that_no_worker_can_import_is_one_clear_line(project, tmp_path):
    (tmp_path / "only_driver.py").write_text(
        "import sys\nif 'default_worker' in sys.argv[0]:\n    raise ImportError('a library is missing on this node')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "--config", str(ROOT / "configs" / "digits.yaml"),
         "plugins=[only_driver]"],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: plugins: 'only_driver' cannot be imported (ImportError: a library is missing on")
    assert "(on the node " in line


def test_their_soup_is_exported(project, home, uri, tmp_path):
    said = command(project, home, "export", "bistro", "--soup", "model-stock", "--out", str(tmp_path / "out"),
                   "--tracking-uri", uri)  # fmt: skip
    assert f"state = load_file('{tmp_path / 'out'}/patches.safetensors')" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"description.json", "patches.safetensors"}


def test_their_checkpoints_are_imported(project, home, uri, tmp_path):
    soups = [
        str(home / "runs" / "bistro" / "soups" / f"{method}.safetensors") for method in ("best-individual", "uniform")
    ]
    (tmp_path / "costs.csv").write_text(f"path,gpu_hours,momentum\n{soups[0]},0.5,0.8\n{soups[1]},0.5,0.9\n")
    settings = ["name=taken", "soup.methods=[uniform, model-stock]", "study.leave_one_out.method=uniform"]
    command(project, tmp_path, "import", *soups, "--config", "bistro.yaml", "--accuracy-file",
            str(tmp_path / "costs.csv"), *settings)  # fmt: skip
    rows = read_table(tmp_path / "runs" / "taken" / "ingredients.parquet", IngredientRecord)
    assert [row.hyperparameters["momentum"] for row in rows] == [0.8, 0.9]


def test_one_soup_of_a_folder(project, home, tmp_path):
    out = tmp_path / "soup.safetensors"
    command(project, home, "soup", "--ingredients", str(home / "runs" / "bistro" / "soups"), "--config", "bistro.yaml",
            "--method", "uniform", "--out", str(out))  # fmt: skip
    assert out.exists()


@needs_mlflow
def test_their_soup_answers_over_http(uri, tmp_path):
    (port,) = free_ports(1)
    serve = [str(MLFLOW), "models", "serve", "--env-manager", "local", "-m", "models:/bistro-soup@model-stock"]
    path = f"{MLFLOW.parent}{os.pathsep}{os.environ['PATH']}"
    env = environment(MLFLOW_TRACKING_URI=uri, MLFLOW_DISABLE_TELEMETRY="true", TMPDIR=str(tmp_path), PATH=path)
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "png")
    image = base64.b64encode(file.getvalue()).decode()
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image]]}}).encode()
    with Background([*serve, "-h", "127.0.0.1", "-p", str(port)], env, tmp_path / "serve.log") as running:
        wait_for_server(f"http://127.0.0.1:{port}/ping", running, 180)
        request = Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
        (row,) = json.load(urlopen(request, timeout=60))["predictions"]
    assert row["label"] in ("across", "down", "slanted")
    assert len(row["logits"]) == 3


@pytest.mark.skipif(not RAY.exists(), reason="the ray command is not installed beside this Python")
def test_the_same_as_a_ray_job(project, tmp_path):
    with head_node(tmp_path) as head:
        submit = head.submit_command(
            "run", "--config", "bistro.yaml", settings={"PIPELINE_HOME": str(tmp_path / "submitted")},
            command=("-m", "pipeline"),
        )  # fmt: skip
        done = head.submit_from(project, submit)
    assert done.returncode == 0, done.stdout + done.stderr
    check_records(RunFolder(Finished(tmp_path / "submitted").output.with_name("bistro")))
