"""The Ray cluster that a run is on."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

# Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from pipeline.config import SearchConfig
from pipeline.errors import PipelineError, RegistryError, SearchError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE_MINUTES = 15  # for the first node that can run a trial, where an autoscaler may add it


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
    def use_gpu(self) -> bool:
        """Whether it has GPUs."""
        return self.gpus > 0

    @property
    def device(self) -> str:
        """The torch device of tasks: ``cuda`` or ``cpu``."""
        return "cuda" if self.use_gpu else "cpu"


def start_ray(plugins: Sequence[str] = ()) -> Cluster:
    """Join the cluster of ``$RAY_ADDRESS`` or start a local one without a dashboard. A second call changes nothing.

    Every worker imports ``plugins`` before it does anything else. What workers print stays in Ray's logs: the driver
    tells of their progress itself.
    """
    if not ray.is_initialized():
        local = {"address": "local", "include_dashboard": False}
        options: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else local
        if plugins:
            options["runtime_env"] = {"worker_process_setup_hook": _importing(tuple(plugins), tuple(sys.path))}
        ray.init(log_to_driver=False, logging_level="error", **options)
        # `ray job stop`, Slurm and Kubernetes end a job so: stop as after Ctrl-C. Ray's own handler prints C++ frames.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    return current_cluster()


def _importing(plugins: tuple[str, ...], search_path: tuple[str, ...]) -> Callable[[], None]:
    """What every worker calls when it starts; modules beside the command are found there as they are here."""

    def import_them() -> None:
        from pipeline.config import import_plugins

        import_plugins(plugins, search_path)

    return import_them


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
    if "RAY_ADDRESS" not in os.environ:
        return cluster
    try:
        trial_resources(cluster, settings)
    except SearchError as lacking:
        logger.info("%s; waiting up to %d min for an autoscaler", lacking, _PATIENCE_MINUTES)
        # A task that waits for its place is what autoscalers react to.
        place = ray.remote(_nothing).options(num_cpus=settings.cpus_per_trial, num_gpus=settings.gpus_per_trial or 0)
        waiting = place.remote()
        if not ray.wait([waiting], timeout=60 * _PATIENCE_MINUTES)[0]:
            ray.cancel(waiting)
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
    kind: type[PipelineError],
    what: str,
) -> Iterator[tuple[int, T]]:
    """Run the generator ``function`` as a Ray task for each of ``calls``, all at once.

    Yields the number of a call and what it yielded, as soon as it did. Raises what the first failing task raised, a
    ``kind`` of error that names ``what`` where its process or node was lost; then, or when the caller stops, all tasks
    are stopped.
    """
    task = ray.remote(function).options(num_returns="streaming", **options)
    streams = {task.remote(*call): number for number, call in enumerate(calls)}
    try:
        while streams:
            (ready,), _ = ray.wait(list(streams), num_returns=1)
            try:
                item: T = ray.get(next(ready))
            except StopIteration:
                del streams[ready]
            else:
                yield streams[ready], item
    except ray.exceptions.RayError as error:
        raise raised_by(error, kind, what) from error
    finally:
        for stream in streams:
            ray.cancel(stream, force=True)


def only_result(
    function: Callable[..., Iterator[T]],
    options: Mapping[str, Any],
    call: tuple[Any, ...],
    kind: type[PipelineError],
    what: str,
) -> T:
    """The one value that ``function`` yields in a Ray task; raises as `as_they_come` does."""
    ((_, result),) = as_they_come(function, options, [call], kind, what)
    return result


def raised_by(error: ray.exceptions.RayError, kind: type[PipelineError], what: str) -> Exception:
    """What the task itself raised; where its process or node was lost, a ``kind`` that says so of ``what``."""
    if isinstance(error, ray.exceptions.RayTaskError):
        return error.cause if isinstance(error.cause, Exception) else error
    lost = str(error).strip().partition("\n")[0]
    return kind(f"{what} was lost ({lost}); what is done is kept, give the same command again to go on")
