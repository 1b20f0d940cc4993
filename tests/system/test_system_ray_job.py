"""``ray job submit`` on a real local cluster, as the README says it."""

import re
import shutil
import subprocess

import pytest
from nodes import RAY, another_node, head_node
from program import CONFIG, ROOT, SMALL, Background, Finished, needs_mlflow
from servers import tracking_server

from pipeline.registry import list_ingredients, read_trials

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not RAY.exists(), reason="the ray command is not installed beside this Python"),
]
# One method of each kind, to save the time.
FEWER = ("search.num_trials=2", "soup.methods=[greedy, mehl-plus]", "study.cost_accuracy.step=1")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    with head_node(tmp_path_factory.mktemp("head")) as head:
        yield head


@pytest.fixture(scope="module")
def submitted(head, tmp_path_factory):
    home = tmp_path_factory.mktemp("submitted")
    done = head.submit(*CONFIG, *SMALL, *FEWER, settings={"PIPELINE_HOME": str(home)})
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(home, done.stdout, done.stderr)


def test_a_job_leaves_its_outputs_where_its_first_line_says(submitted):
    first = re.search(r"^.*run digits: output in (.*)$", submitted.stdout, re.MULTILINE)
    assert first[1] == str(submitted.output)
    log = submitted.stdout[submitted.stdout.index("Running entrypoint") :].splitlines()
    assert log[1] == first[0], "something was printed before the line that says where the output is"
    assert [row.status for row in submitted.ingredients()] == ["finished"] * 2
    assert [row.method for row in submitted.soups()] == ["greedy", "mehl-plus"]
    assert (submitted.output / "report.html").exists()


def test_a_job_records_in_the_registry(submitted):
    sweep = submitted.sweep()
    assert read_trials(sweep) == submitted.ingredients()
    assert [version.trial_index for version in list_ingredients(sweep)] == [None, 0, 1]
    aliases = sweep.client().get_registered_model(sweep.soup_model).aliases
    assert set(aliases) == {"greedy", "mehl-plus", "champion"}


def test_a_job_writes_nothing_into_its_working_directory(head, submitted):
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {name.partition("/")[0] for name in tracked}
    for copy in head.working_copies():
        assert {path.name for path in copy.iterdir()} <= top | {".ci", "README.md"}
        assert [path for path in copy.rglob("*") if path.suffix in {".db", ".parquet"} or path.name == "runs"] == []
        assert (copy / "pipeline" / "run.py").exists()


def test_without_a_setting_a_job_writes_to_the_home_folder(head, submitted):
    shutil.copytree(submitted.home / "runs" / "prepared-data", head.home / "pipeline-runs" / "runs" / "prepared-data")
    done = head.submit(*CONFIG, *SMALL, "search.num_trials=1", "--stages", "search")
    assert done.returncode == 0, done.stdout + done.stderr
    left = Finished(head.home / "pipeline-runs")
    assert f"run digits: output in {left.output}" in done.stdout
    assert [row.status for row in left.ingredients()] == ["finished"]
    assert read_trials(left.sweep()) == left.ingredients()


@needs_mlflow
def test_a_job_waits_for_the_first_node_that_can_run_a_trial(tmp_path, image_store, migrated_store):
    (tmp_path / "mlflow.db").write_bytes(migrated_store.read_bytes())
    few = ("search.num_trials=1", "search.cpus_per_trial=1", image_store, "--stages", "search")
    home = {"PIPELINE_HOME": str(tmp_path)}
    with (
        tracking_server(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "artifacts")) as server,
        head_node(tmp_path, cpus=0) as head,
        Background(
            head.submit_command(*CONFIG, *SMALL, *few, f"registry.tracking_uri={server.uri}", settings=home),
            head.env,
            tmp_path / "job.log",
        ) as job,
    ):
        job.wait_for_output("waiting up to 15 min for an autoscaler", 120)
        with another_node(head, tmp_path / "node.log"):
            assert job.process.wait(timeout=300) == 0, job.output()
    assert [row.status for row in Finished(tmp_path).ingredients()] == ["finished"]


def test_a_mistake_in_a_job_ends_with_a_failure_that_names_it(head):
    done = head.submit(*CONFIG, "search.num_trails=2")
    assert done.returncode == 1
    assert "search.num_trails: unknown key; did you mean 'num_trials'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
