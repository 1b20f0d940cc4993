import logging
import socket
from types import SimpleNamespace

import pytest
import ray
from samples import search_config

from pipeline import cluster as cluster_module
from pipeline.cluster import Cluster, polled, start_ray, trial_resources, trials_at_once
from pipeline.config import ray_address
from pipeline.errors import ConfigError, SearchError


def cluster(*nodes):
    """A cluster of nodes with (cores, GPUs)."""
    return Cluster(nodes=nodes, image_bytes=1e9)


@pytest.mark.parametrize(
    ("nodes", "settings", "found"),
    [
        ([(8, 0)], {"cpus_per_trial": 2}, (False, 2.0)),
        ([(8, 4)], {}, (True, 1.0)),
        ([(8, 4)], {"gpus_per_trial": 0.25}, (True, 0.25)),
        ([(8, 4)], {"gpus_per_trial": 0, "cpus_per_trial": 8}, (False, 8.0)),
        ([(16, 0), (4, 1)], {"cpus_per_trial": 4}, (True, 1.0)),
    ],
)
def test_what_a_trial_reserves(nodes, settings, found):
    assert trial_resources(cluster(*nodes), search_config(**settings)) == found


@pytest.mark.parametrize(
    ("nodes", "cores"),
    [
        ([(8, 0), (16, 0)], 16),
        ([(8, 2)], 4),
        ([(16, 0), (9, 2), (16, 1)], 4),  # tasks go to any node with a free GPU
        ([(2, 4)], 1),
    ],
)
def test_tasks_side_by_side_share_the_cores_of_a_node(nodes, cores):
    assert cluster(*nodes).cpus_per_task == cores


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        ([(8, 0)], {"gpus_per_trial": 1}, "the cluster has no GPU"),
        ([(8, 1)], {"cpus_per_trial": 9}, "the largest node has 8 cores"),
        ([(8, 1), (8, 1)], {"gpus_per_trial": 2}, "no node has 2 GPUs and"),
        ([(16, 0), (4, 1)], {"cpus_per_trial": 8}, "no node has 1 GPUs and the 8 cores"),
    ],
)
def test_a_trial_that_fits_no_node_is_refused(nodes, settings, message):
    with pytest.raises(SearchError, match=message):
        trial_resources(cluster(*nodes), search_config(**settings))


@pytest.fixture
def no_ray(monkeypatch):
    """Ray is not running, whatever other tests started; notes how it was asked to start."""
    asked = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(cluster_module, "current_cluster", lambda: None)
    monkeypatch.setattr(cluster_module, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(cluster_module.signal, "signal", lambda *arguments: None)
    return asked


@pytest.mark.parametrize(("value", "address"), [(None, None), ("", None), ("local", None), ("h:6379", "h:6379")])
def test_the_cluster_that_the_environment_names(monkeypatch, value, address):
    if value is not None:
        monkeypatch.setenv("RAY_ADDRESS", value)
    assert ray_address() == address


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "http://127.0.0.1:8265",
            r"http://127.0.0.1:8265 is where `ray job submit` hands in.*env -u RAY_ADDRESS",
        ),
        ("ray://head:10001", r"ray://head:10001 is for Ray's client"),
        ("no-such.invalid:6379", r"no-such.invalid:6379 cannot be joined .* start it, correct the address"),
    ],
)
def test_an_address_that_is_no_cluster_is_told_at_once(no_ray, address, message):
    with pytest.raises(ConfigError, match=f"^RAY_ADDRESS: .*{message}"):
        start_ray(address=address)
    assert no_ray == []


def test_a_cluster_that_is_gone_is_told_before_ray_waits_for_it(no_ray):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        start_ray(address=f"127.0.0.1:{port}")
        assert [options["address"] for options in no_ray] == [f"127.0.0.1:{port}"]
    with pytest.raises(ConfigError, match=rf"^RAY_ADDRESS: the Ray cluster 127.0.0.1:{port} cannot be joined"):
        start_ray(address=f"127.0.0.1:{port}")
    assert len(no_ray) == 1


def test_a_cluster_that_stays_silent_ends_in_a_line(no_ray, monkeypatch):
    def gives_up(**options):
        raise SystemExit(15)  # as Ray does after minutes

    monkeypatch.setattr(ray, "init", gives_up)
    with pytest.raises(ConfigError, match=r"^RAY_ADDRESS: the Ray cluster auto cannot be joined \(it does"):
        start_ray(address="auto")


def test_a_ray_that_does_not_start_is_a_line(no_ray, monkeypatch):
    def fails(**options):
        raise RuntimeError("The current node timed out during startup.\nThis could happen because ...")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(
        SearchError, match=r"^Ray did not start on this machine \(The current node timed out during startup"
    ):
        start_ray()


@pytest.mark.parametrize(
    ("folder", "short"), [("/scratch/me", False), ("/scratch/" + "a" * 60, True), ("/ü", True), ("/a b", True)]
)
def test_ray_keeps_its_sockets_where_they_can_be(no_ray, monkeypatch, caplog, folder, short):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", folder)
    with caplog.at_level(logging.INFO, "pipeline"):
        start_ray()
    assert no_ray[0]["_temp_dir"] == ("/tmp/ray" if short else None)
    assert caplog.messages == (
        [f"Ray keeps its files below /tmp: {folder} is too long for it, or has letters that it cannot take"]
        if short
        else []
    )


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "count"),
    [
        (((2.0, 0.0),), 1, 0, 2),
        (((16.0, 4.0), (16.0, 4.0)), 2, 1, 8),
        (((16.0, 4.0),), 6, 1, 2),  # cores are short
        (((16.0, 2.0),), 1, 0.4, 4),  # two on each GPU, not five on both
        (((16.0, 3.0),), 1, 2, 1),
        (((1.0, 0.0),), 2, 0, 1),  # nodes were lost: one waits
    ],
)
def test_as_many_trials_are_handed_out_as_there_is_room_for(monkeypatch, nodes, cpus, gpus, count):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert trials_at_once(Cluster(nodes, image_bytes=0), cpus, gpus) == count
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")  # an autoscaler adds nodes for what waits
    waits = 0 if nodes == ((1.0, 0.0),) else 1
    assert trials_at_once(Cluster(nodes, image_bytes=0), cpus, gpus) == count + waits


@pytest.mark.parametrize("is_there", [True, False])
def test_a_task_that_is_given_up_is_stopped_and_wakes_no_ray_that_was_left(monkeypatch, is_there):
    stopped = []
    task = SimpleNamespace(remote=lambda *call: "stream")
    monkeypatch.setattr(ray, "remote", lambda **options: lambda function: task)
    monkeypatch.setattr(ray, "wait", lambda streams, **options: ([], streams))
    monkeypatch.setattr(ray, "cancel", lambda stream, force: stopped.append(stream))
    monkeypatch.setattr(ray, "is_initialized", lambda: is_there)
    coming = polled(iter, {}, [()], SearchError, "a task", patience=0)
    assert next(coming) is None
    coming.close()
    assert stopped == (["stream"] if is_there else [])
