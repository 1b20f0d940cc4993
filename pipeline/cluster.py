"""The Ray cluster that a run is on."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

# Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.config import SearchConfig, import_plugins, ray_address
from pipeline.errors import ConfigError, PipelineError, RegistryError, SearchError, first_line
from pipeline.files import patiently

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE_SECONDS = 10.0  # with a cluster that does not answer
# Ray adds `/ray/session_DATE_TIME_NUMBER_PID/sockets/plasma_store`, and takes paths of 103 bytes.
_LONGEST_TMPDIR = 34
_SHORT_TMPDIR = "/tmp"  # noqa: S108 (Ray's own choice without $TMPDIR)
_PATIENCE_MINUTES = 15  # for the first node that can run a trial, where an autoscaler may add it
# Set while the processes of a local Ray are forked. They leave the group of this one: a signal to all of it, as
# `timeout` sends it, would end them first, and Ray then ends a process that has lost them without a word.
_forking_ray = threading.Event()
os.register_at_fork(after_in_child=lambda: os.setpgrp() if _forking_ray.is_set() else None)


@dataclass(frozen=True)
class Cluster:
    """``nodes`` are the cores and GPUs of each node.

    ``image_bytes`` is what training images may take on every node: half of Ray's object store on the smallest.
    """

    nodes: tuple[tuple[float, float], ...]
    image_bytes: float

    @property
    def gpus(self) -> int:
        """All GPUs that it has."""
        return int(sum(gpus for _, gpus in self.nodes))

    @property
    def cpus(self) -> int:
        """The cores of its largest node."""
        return int(max(cpus for cpus, _ in self.nodes))

    @property
    def cpus_per_task(self) -> int:
        """The cores of a task with a GPU of its own, beside others on the same node; without GPUs all of a node."""
        shares = [cpus / gpus for cpus, gpus in self.nodes if gpus >= 1]
        return max(int(min(shares)), 1) if shares else self.cpus

    @property
    def use_gpu(self) -> bool:
        """Whether it has GPUs."""
        return self.gpus > 0

    @property
    def device(self) -> str:
        """The torch device of tasks: ``cuda`` or ``cpu``."""
        return "cuda" if self.use_gpu else "cpu"


def start_ray(plugins: Sequence[str] = (), address: str | None = None) -> Cluster:
    """Join the cluster at ``address``, or start one of this machine alone. A second call changes nothing.

    Every worker imports ``plugins`` before it does anything else. What workers print stays in Ray's logs: the driver
    tells of their progress itself. Raises ConfigError where there is no cluster, or a node cannot import a plug-in.
    """
    if not ray.is_initialized():
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if plugins:
            options["runtime_env"] = {"worker_process_setup_hook": _importing(tuple(plugins), tuple(sys.path))}
        if address is None:
            _start(options)
        else:
            _join(address, options)
        # `ray job stop`, Slurm and Kubernetes end a job so: stop as after Ctrl-C. Ray's own handler prints C++ frames.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        if plugins:
            _check_plugins(plugins)
    return current_cluster()


def leave_ray() -> bool:
    """Let go of the cluster; returns False where that takes too long.

    A signal to all processes of a job, as Slurm sends it, ends those of a local Ray too. Ray then waits for them for a
    minute and ends this process with words of its own.
    """
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(_PATIENCE_SECONDS)
    return not leaving.is_alive()


def _start(options: Mapping[str, Any]) -> None:
    """Start a Ray of this machine; raises SearchError where it does not come up."""
    _forking_ray.set()
    try:
        ray.init(address="local", include_dashboard=False, _temp_dir=_folder_of_ray(), **options)
    except (Exception, SystemExit) as error:  # of many kinds
        reason = first_line(error)
        raise SearchError(
            f"Ray did not start on this machine ({reason}); give the same command again, and if that does not help "
            "look at its logs below $TMPDIR/ray/session_latest"
        ) from error
    finally:
        _forking_ray.clear()


def _folder_of_ray() -> str | None:
    """Where a Ray of this machine keeps sockets and logs: None, which is Ray's own choice, where that can be.

    Below a long ``$TMPDIR`` its sockets would have names that Linux does not take; letters beyond ASCII end it.
    """
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or _SHORT_TMPDIR
    if re.fullmatch(r"[\w./+-]+", folder, re.ASCII) and len(folder) <= _LONGEST_TMPDIR:
        return None
    message = "Ray keeps its files below %s: %s is too long for it, or has letters that it cannot take"
    logger.info(message, _SHORT_TMPDIR, folder)
    return f"{_SHORT_TMPDIR}/ray"


def _join(address: str, options: Mapping[str, Any]) -> None:
    """Join the cluster at ``address``; raises ConfigError where none answers. Ray itself would try for minutes."""
    scheme, _, _ = address.partition("://")
    if scheme in ("http", "https"):
        raise ConfigError(
            f"RAY_ADDRESS: {address} is where `ray job submit` hands in a job, and this command joins a cluster "
            "itself; submit it (`ray job submit --working-dir . -- python pipeline/run.py ...`), or run it on this "
            "machine with `env -u RAY_ADDRESS`"
        )
    if scheme == "ray":
        raise ConfigError(
            f"RAY_ADDRESS: {address} is for Ray's client, which cannot run a sweep; submit the command as a job, or "
            "give HOST:PORT of a cluster that this machine is a node of"
        )
    host, _, port = address.rpartition(":")
    telling = threading.Timer(_PATIENCE_SECONDS, logger.info, ("the Ray cluster %s is slow to answer", address))
    telling.start()
    try:
        if port.isdigit():
            patiently(
                lambda: socket.create_connection((host.strip("[]"), int(port)), timeout=5).close(),
                _PATIENCE_SECONDS,
                lambda error: isinstance(error, OSError),
            )
        ray.init(address=address, **options)
    except (Exception, SystemExit) as error:  # Ray ends the process where a cluster stays silent
        reason = "it does not answer" if isinstance(error, SystemExit) else first_line(error)
        raise ConfigError(
            f"RAY_ADDRESS: the Ray cluster {address} cannot be joined ({reason}); start it, correct the address, or "
            "run on this machine with `env -u RAY_ADDRESS`"
        ) from error
    finally:
        telling.cancel()
        telling.join()  # nothing is said after what came of it


def _importing(plugins: tuple[str, ...], search_path: tuple[str, ...]) -> Callable[[], None]:
    """What every worker calls when it starts; modules, this package too, are found there as they are here."""

    def import_them() -> None:
        sys.path.extend(folder for folder in search_path if folder not in sys.path)
        # Only now: where this function is unpickled, the package may be on none of the other paths.
        from pipeline.config import import_plugins
        from pipeline.errors import ConfigError

        with contextlib.suppress(ConfigError):  # a worker that ends here says nothing; `_check_plugins` does
            import_plugins(plugins)

    return import_them


def _check_plugins(plugins: Sequence[str]) -> None:
    """Import the plug-ins in a worker of every node; raises ConfigError that names the first node which cannot."""
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    task, anywhere = ray.remote(_problem_with), {"num_cpus": 0, "max_retries": 0}
    problems = [
        task.options(**anywhere, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(plugins)
        for node in nodes
    ]
    for address, problem in zip(nodes.values(), ray.get(problems), strict=True):
        if problem is not None:
            raise ConfigError(f"{problem} (on the node {address})")


def _problem_with(plugins: Sequence[str]) -> str | None:
    try:
        import_plugins(plugins)
    except ConfigError as error:
        return str(error)
    return None


def current_cluster() -> Cluster:
    """The cluster as it is now: an autoscaler may have changed it since it was joined."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(
        nodes=tuple((node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes),
        image_bytes=min(node["Resources"].get("object_store_memory", 0) for node in nodes) / 2,
    )


def await_room(cluster: Cluster, settings: SearchConfig) -> Cluster:
    """The cluster once it can run a trial: one that was joined may have to be scaled up from nothing.

    Raises SearchError, as `trial_resources` does, when that takes longer than a quarter of an hour. A local one comes
    back as it is.
    """
    if ray_address() is None:
        return cluster
    try:
        trial_resources(cluster, settings)
    except SearchError as error:
        logger.info("%s; waiting up to %d min for an autoscaler", error, _PATIENCE_MINUTES)
        # A task of the size of a trial that nodes are too small for is what autoscalers react to.
        task = ray.remote(_nothing).options(num_cpus=settings.cpus_per_trial, num_gpus=settings.gpus_per_trial or 0)
        result = task.remote()
        if not ray.wait([result], timeout=60 * _PATIENCE_MINUTES)[0]:
            ray.cancel(result)
            raise
        return current_cluster()
    return cluster


def _nothing() -> None:
    pass


def trial_resources(cluster: Cluster, settings: SearchConfig) -> tuple[bool, float]:
    """Whether trials use GPUs, and how many GPUs (else CPU cores) each reserves.

    Raises SearchError when the cluster can never place a trial: Ray would wait for ever.
    """
    gpus = settings.gpus_per_trial if settings.gpus_per_trial is not None else float(cluster.use_gpu)
    if gpus > 0 and not cluster.use_gpu:
        raise SearchError(f"search.gpus_per_trial: is {gpus:g}, but the cluster has no GPU; leave it out or add a node")
    if settings.cpus_per_trial > cluster.cpus:
        raise SearchError(
            f"search.cpus_per_trial: is {settings.cpus_per_trial}, but the largest node has {cluster.cpus} cores"
        )
    if not any(cpus >= settings.cpus_per_trial and on_node >= gpus for cpus, on_node in cluster.nodes):
        raise SearchError(
            f"search.gpus_per_trial: no node has {gpus:g} GPUs and the {settings.cpus_per_trial} cores of "
            "search.cpus_per_trial; ask for fewer"
        )
    return (True, gpus) if gpus > 0 else (False, float(settings.cpus_per_trial))


def trials_at_once(cluster: Cluster, cpus: float, gpus: float) -> int:
    """How many trials to hand out that take so many cores and GPUs each: as many as there is room for.

    And one more on a cluster that was joined, since an autoscaler adds nodes for what waits.
    """
    room = 0
    for on_node, gpus_on_node in cluster.nodes:
        by_gpus = int(1 / gpus) * gpus_on_node if 0 < gpus < 1 else gpus_on_node / gpus if gpus else on_node
        room += int(min(on_node / cpus, by_gpus))
    return max(room + (ray_address() is not None), 1)


def check_store(cluster: Cluster, tracking_uri: str) -> None:
    """Raises RegistryError when workers on other nodes could not reach a store that is a file on this one."""
    nodes = len(cluster.nodes)
    if nodes > 1 and store_node(tracking_uri) is not None:
        raise RegistryError(
            f"registry.tracking_uri: {tracking_uri} is a file of this node, but the cluster has {nodes} nodes; "
            "give the address of an MLflow server"
        )


def store_node(tracking_uri: str) -> str | None:
    """The only node that reaches the store, this one, where it is a file; nodes that are added later must not."""
    return ray.util.get_node_ip_address() if tracking_uri.startswith(("sqlite:", "file:", "/")) else None


def as_they_come(
    function: Callable[..., Iterator[T]],
    options: Mapping[str, Any],
    calls: Sequence[tuple[Any, ...]],
    error_type: type[PipelineError],
    task_name: str,
    instead: Callable[[int, str], T] | None = None,
) -> Iterator[tuple[int, T]]:
    """Run the generator ``function`` as a Ray task for each of ``calls``, all at once.

    Yields the number of a call and what it yielded, as soon as it did. Raises what the first failing task raised, an
    ``error_type`` that names ``task_name`` where its process or node was lost; then, or when the caller stops, all
    tasks are stopped. With ``instead`` no loss is an error: what it makes of a call's number and the reason is yielded.
    """
    for item in polled(function, options, calls, error_type, task_name, instead, patience=None):
        if item is not None:
            yield item


def polled(
    function: Callable[..., Iterator[T]],
    options: Mapping[str, Any],
    calls: Sequence[tuple[Any, ...]],
    error_type: type[PipelineError],
    task_name: str,
    instead: Callable[[int, str], T] | None = None,
    *,
    patience: float | None,
) -> Iterator[tuple[int, T] | None]:
    """As `as_they_come`, for callers with other work: yields None where nothing has come for ``patience`` seconds."""
    # A stream yields a reference per item; it is ready when its next item, or its end, has arrived. An ended one leaves
    # the table, a failed one raises in `ray.get`, and what is still in the table then is cancelled.
    # Given here, not to `.options`: then a process with a GPU ends with its task, and is not handed another GPU later.
    task = ray.remote(num_returns="streaming", **options)(function)
    streams = {task.remote(*call): number for number, call in enumerate(calls)}
    try:
        while streams:
            came, _ = ray.wait(list(streams), num_returns=1, timeout=patience)
            if not came:
                yield None
                continue
            (ready,) = came
            try:
                item: T = ray.get(next(ready))
            except StopIteration:
                del streams[ready]
            except ray.exceptions.RayError as error:
                if instead is None or isinstance(error, ray.exceptions.RayTaskError):
                    raise
                number = streams.pop(ready)
                yield number, instead(number, first_line(error))
            else:
                yield streams[ready], item
    except ray.exceptions.RayError as error:
        raise raised_by(error, error_type, task_name) from error
    finally:
        # Left in the middle by Ctrl-C, this may run when Ray is left already: asked for anything, it would start anew.
        for stream in streams if ray.is_initialized() else ():
            ray.cancel(stream, force=True)


def only_result(
    function: Callable[..., Iterator[T]],
    options: Mapping[str, Any],
    call: tuple[Any, ...],
    error_type: type[PipelineError],
    task_name: str,
) -> T:
    """The one value that ``function`` yields in a Ray task; raises as `as_they_come` does."""
    ((_, result),) = as_they_come(function, options, [call], error_type, task_name)
    return result


def raised_by(error: ray.exceptions.RayError, error_type: type[PipelineError], task_name: str) -> Exception:
    """What the task itself raised; where its process or node was lost, an ``error_type`` that says so."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return error.cause if isinstance(error.cause, Exception) else error
    return error_type(
        f"{task_name} was lost ({first_line(error)}); what is done is kept, give the same command again to go on"
    )
