"""``ray job submit`` on a real local cluster, as the README says it."""

import re
import shutil
import subprocess

import pytest
from nodes import RAY, head_node
from program import CONFIG, ROOT, SMALL, Finished

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
        outputs = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.suffix in {".db", ".parquet"}}
        assert outputs <= set(tracked), "beside the records that the repository keeps"
        assert not list(copy.rglob("runs"))
        assert (copy / "pipeline" / "run.py").exists()


def test_without_a_setting_a_job_writes_to_the_home_folder(head, submitted):
    shutil.copytree(submitted.home / "runs" / "prepared-data", head.home / "pipeline-runs" / "runs" / "prepared-data")
    done = head.submit(*CONFIG, *SMALL, "search.num_trials=1", "--stages", "search")
    assert done.returncode == 0, done.stdout + done.stderr
    left = Finished(head.home / "pipeline-runs")
    assert f"run digits: output in {left.output}" in done.stdout
    assert [row.status for row in left.ingredients()] == ["finished"]
    assert read_trials(left.sweep()) == left.ingredients()


def test_a_mistake_in_a_job_ends_with_a_failure_that_names_it(head):
    done = head.submit(*CONFIG, "search.num_trails=2")
    assert done.returncode == 1
    assert "search.num_trails: unknown key; did you mean 'num_trials'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
