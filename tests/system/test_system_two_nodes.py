"""A cluster of two nodes that share no file system: a worker is lost in mid-sweep, then the driver is killed."""

import os
import signal
import time
from pathlib import Path

import pytest
from buckets import object_store
from nodes import RAY, head_node, namespaces_allowed, network, worker_node
from program import CONFIG, MLFLOW, ROOT, SMALL, Background, the_sweep, wait_for
from servers import sqlite_server

from pipeline.errors import PipelineError
from pipeline.records import IngredientRecord, SoupRecord
from pipeline.records.tables import read_table
from pipeline.registry import list_ingredients, read_trials
from pipeline.search.attempts import Attempt, read_attempts
from pipeline.search.storage import Storage
from pipeline.search.trial import load_state

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        not (MLFLOW.exists() and RAY.exists()), reason="mlflow or ray is not installed beside this Python"
    ),
]
TRIALS, EPOCHS = 6, 16
SETTINGS = (
    *("data.train_size=300", f"search.num_trials={TRIALS}", "search.cpus_per_trial=1"),
    f"search.distributions={{lr: 1e-4, epochs: {EPOCHS}, batch_size: 25, augmentation: minimal}}",
    "soup.methods=[greedy, mehl-plus]",
    "study={}",
)


@pytest.fixture
def link():
    if not namespaces_allowed():
        pytest.skip("this machine lets us make no network namespaces (that takes root and iproute2)")
    with network() as link:
        yield link


@pytest.fixture
def store(link, monkeypatch):
    """An S3-compatible store that both nodes and this test reach."""
    with object_store(link.near) as bucket:
        for name, value in bucket.keys.items():
            monkeypatch.setenv(name, value)
        yield bucket


@pytest.fixture
def server(link, migrated_store, tmp_path):
    """A tracking server that both nodes reach, and that hands artifacts on."""
    with sqlite_server(tmp_path / "server", migrated_store, link.near) as one:
        yield one.uri


class Watch:
    """What is known of a sweep from outside."""

    def __init__(self, uri: str, storage: str):
        self.uri, self.storage = uri, storage

    def sweep(self):
        return the_sweep(self.uri)

    def rows(self) -> list[IngredientRecord]:
        try:
            return read_trials(self.sweep())
        except (PipelineError, AttributeError, ValueError):  # there is no sweep yet
            return []

    def nodes(self) -> set[str]:
        """Where recorded trials ran."""
        sweep = self.sweep()
        runs = sweep.client().search_runs([sweep.experiment_id], "tags.role = 'trial'")
        return {run.data.tags["node"] for run in runs if "node" in run.data.tags}

    def kept(self, trial: int) -> Storage:
        return Storage(self.storage).child(self.sweep().sweep_id).child(f"trial-{trial:05d}")

    def attempts(self, trial: int) -> list[Attempt]:
        """The attempts of a trial that is not recorded."""
        return read_attempts(self.kept(trial))

    def epoch(self, trial: int) -> int:
        """The last epoch that was saved of a trial, 0 if none was."""
        state = load_state(self.kept(trial))
        return 0 if state is None else state["epoch"]

    def epochs_logged(self, trial: int) -> list[int]:
        """The epochs of a trial in the order in which its attempts logged them."""
        sweep, client = self.sweep(), self.sweep().client()
        (run,) = client.search_runs([sweep.experiment_id], f"tags.role = 'trial' and tags.key = '{trial}'")
        history = client.get_metric_history(run.info.run_id, "train_loss")
        return [one.step for one in sorted(history, key=lambda one: one.timestamp)]

    def under_way(self, node: str) -> list[int]:
        """The trials that run on ``node`` and have epochs behind and before them."""
        done = {row.trial_index for row in self.rows()}
        begun = {trial: self.attempts(trial) for trial in set(range(TRIALS)) - done}
        here = [trial for trial, attempts in begun.items() if attempts and attempts[-1].node == node]
        return [trial for trial in here if 3 <= self.epoch(trial) <= EPOCHS / 2]


def words_of(process: Path) -> list[str]:
    """The command line of a folder in /proc; empty if it has ended."""
    try:
        return (process / "cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def kill_driver(output: Path) -> None:
    """SIGKILL, as if its machine ran out of memory."""
    (driver,) = [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if (words := words_of(folder))[1:2] == ["pipeline/run.py"] and f"output={output}" in words
    ]
    os.kill(driver, signal.SIGKILL)


def test_a_worker_and_then_the_driver_are_lost(link, store, server, tmp_path):
    output = tmp_path / "run"
    settings = (*CONFIG, *SMALL, *SETTINGS, f"output={output}", f"registry.tracking_uri={server}")
    endpoint = store.endpoint.removeprefix("http://")
    storage = f"s3://{store.name}/unfinished?scheme=http&endpoint_override={endpoint}"
    settings += (f"search.storage={storage}",)
    watch = Watch(server, storage)
    with head_node(tmp_path, ip=link.near, cpus=1, **store.keys) as head:
        hidden = [tmp_path, ROOT / "pipeline"]
        with worker_node(head, link, hidden, Path(tmp_path / "worker.log")) as worker:
            job = Background(head.submit_command(*settings), head.env, tmp_path / "job-1.log")
            wait_for(lambda: watch.rows() and watch.nodes() == {link.near, link.far}, "trials of both nodes", 300)
            (lost,) = wait_for(lambda: watch.under_way(link.far), "an epoch on the worker", 120)
            worker.process.kill()
        saved, before = watch.epoch(lost), watch.attempts(lost)
        assert saved >= 3

        def goes_on() -> bool:
            """Another attempt has saved more."""
            recorded = any(row.trial_index == lost for row in watch.rows())
            return recorded or (watch.epoch(lost) > saved and len(watch.attempts(lost)) > len(before))

        wait_for(goes_on, "the lost trial on the other node", 300)
        kill_driver(output)
        job.process.wait(timeout=120)
        assert job.process.returncode != 0
        time.sleep(10)  # until its workers have ended too
        recorded = watch.rows()
        assert 2 <= len(recorded) < TRIALS
        seconds = {trial: watch.attempts(trial) for trial in range(TRIALS)}

        again = head.submit(*settings)
        assert again.returncode == 0, again.stdout + again.stderr
        assert f"search: {TRIALS} trials, {len(recorded)} of them recorded" in again.stdout
    rows = read_table(output / "ingredients.parquet", IngredientRecord)
    assert [(row.trial_index, row.status) for row in rows] == [(index, "finished") for index in range(TRIALS)]
    known = {row.trial_index for row in recorded}
    assert [row for row in rows if row.trial_index in known] == recorded, "a recorded trial ran again"
    for row in rows:
        if row.trial_index not in known:
            assert row.attempts == 1 + len(seconds[row.trial_index])
            assert row.gpu_hours * 3600 > sum(attempt.seconds for attempt in seconds[row.trial_index])
    assert rows[lost].attempts >= 2
    logged = watch.epochs_logged(lost)
    assert logged[-1] == EPOCHS
    assert all(logged.count(epoch) <= 1 for epoch in range(1, saved + 1)), "the lost trial began again"
    versions = list_ingredients(watch.sweep())
    assert [version.trial_index for version in versions] == [None, *range(TRIALS)]
    assert [version.sha256 for version in versions[1:]] == [row.sha256 for row in rows]
    assert [key for key in store.objects() if "trial-" in key] == []
    soups = read_table(output / "soups.parquet", SoupRecord)
    assert [(soup.method, soup.num_ingredients) for soup in soups] == [("greedy", TRIALS), ("mehl-plus", TRIALS)]


def test_a_job_waits_for_the_first_node_that_can_run_a_trial(link, server, image_store, tmp_path):
    """As on a cluster that adds nodes on demand and has none but the head when the job begins."""
    few = ("search.num_trials=1", "search.cpus_per_trial=1", image_store, "--stages", "search")
    settings = (*CONFIG, *SMALL, *few, f"output={tmp_path / 'run'}", f"registry.tracking_uri={server}")
    with head_node(tmp_path, ip=link.near, cpus=0) as head:
        env = {**head.env, "PYTHONUNBUFFERED": "1"}
        with Background(head.submit_command(*settings), env, tmp_path / "job.log") as job:
            job.wait_for_output("waiting up to 15 min for an autoscaler", 120)
            with worker_node(head, link, [tmp_path, ROOT / "pipeline"], tmp_path / "worker.log"):
                assert job.process.wait(timeout=300) == 0, job.output()
    assert [row.status for row in read_trials(the_sweep(server))] == ["finished"]
