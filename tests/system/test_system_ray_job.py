"""``ray job submit`` on a real local cluster, as the README says it."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from program import CONFIG, ROOT, SMALL, Background, Finished, environment, free_ports, wait_for

from pipeline.registry import list_ingredients, read_trials

RAY = Path(sys.executable).with_name("ray")
pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not RAY.exists(), reason="the ray command is not installed beside this Python"),
]
# One method of each kind, to save the time.
FEWER = ("search.num_trials=2", "soup.methods=[greedy, mehl-plus]", "study.cost_accuracy.step=1")


@dataclass(frozen=True)
class Head:
    """A head node of our own. ``home`` is the home folder of its processes, ``env`` what the user's shell has."""

    address: str
    home: Path
    session: Path
    env: dict[str, str]

    def submit(self, *arguments: str, settings: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        extra = () if settings is None else ("--runtime-env-json", json.dumps({"env_vars": settings}))
        return subprocess.run(
            [RAY, "job", "submit", "--working-dir", ".", *extra, "--", "python", "pipeline/run.py", *arguments],
            cwd=ROOT, env={**self.env, "RAY_ADDRESS": self.address}, capture_output=True, text=True, timeout=900,
        )  # fmt: skip

    def working_copies(self) -> list[Path]:
        return [path for path in (self.session / "runtime_resources" / "working_dir_files").iterdir() if path.is_dir()]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head node on loopback, with ports, a home and a temporary folder of its own; stopped by its process id."""
    home = tmp_path_factory.mktemp("user")
    session = Path(tempfile.mkdtemp(prefix="ray-"))  # short: it holds Unix sockets
    path = f"{RAY.parent}:{environment()['PATH']}"  # as in an activated virtual environment
    env = environment(HOME=str(home), PATH=path, RAY_AUTH_MODE="token", RAY_USAGE_STATS_ENABLED="0")
    token = subprocess.run(
        [RAY, "get-auth-token", "--generate"], env=env, check=True, capture_output=True, text=True
    ).stdout.strip()
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    names += ("dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={session}"]
    options += ["--num-cpus=2", "--object-store-memory=200000000", "--min-worker-port=0", "--max-worker-port=0"]
    command = [str(RAY), "start", "--head", "--block", *options]
    address = f"http://127.0.0.1:{ports['dashboard-port']}"

    def answers() -> bool:
        try:
            request = Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
            return urlopen(request, timeout=5).status == 200
        except (URLError, OSError):
            return False

    with Background(command, env, tmp_path_factory.mktemp("head") / "head.log") as running:
        wait_for(lambda: answers() or running.process.poll() is not None, "a head node", 120)
        assert running.process.poll() is None, running.output()
        yield Head(address, home, session / "session_latest", env)
        running.process.terminate()
        running.process.wait(timeout=90)
    shutil.rmtree(session, ignore_errors=True)


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


def test_a_mistake_in_a_job_ends_with_a_failure_that_names_it(head):
    done = head.submit(*CONFIG, "search.num_trails=2")
    assert done.returncode == 1
    assert "search.num_trails: unknown key; did you mean 'num_trials'?" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
