"""The Ray cluster that a run is on, and the machine, versions and commit that made it."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

# Ray reads these when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray

from pipeline.config import SearchConfig
from pipeline.errors import RegistryError, SearchError

_RECORDED_LIBRARIES = ("ray", "mlflow", "torch", "torchvision", "open_clip_torch", "numpy", "safetensors")


@dataclass(frozen=True)
class Cluster:
    """``use_gpu`` tells whether it has GPUs; ``cpus`` are the cores of its largest node."""

    use_gpu: bool
    cpus: int
    nodes: int

    @property
    def device(self) -> str:
        """The torch device of tasks: ``cuda`` or ``cpu``."""
        return "cuda" if self.use_gpu else "cpu"


def start_ray() -> Cluster:
    """Join the cluster of ``$RAY_ADDRESS`` or start a local one without a dashboard. A second call changes nothing.

    What workers print stays in Ray's logs: the driver tells of their progress itself.
    """
    if not ray.is_initialized():
        local = {} if "RAY_ADDRESS" in os.environ else {"address": "local", "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="error", **local)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(
        use_gpu=ray.cluster_resources().get("GPU", 0) > 0,
        cpus=int(max(node["Resources"].get("CPU", 0) for node in nodes)),
        nodes=len(nodes),
    )


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
    return (True, gpus) if gpus > 0 else (False, float(settings.cpus_per_trial))


def check_store(cluster: Cluster, tracking_uri: str) -> None:
    """Raises RegistryError when workers on other nodes could not reach a store that is a file on this one."""
    if cluster.nodes > 1 and tracking_uri.startswith(("sqlite:", "file:", "/")):
        raise RegistryError(
            f"registry.tracking_uri: {tracking_uri} is a file of this node, but the cluster has {cluster.nodes} nodes; "
            "give the address of an MLflow server"
        )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _RECORDED_LIBRARIES}}


def machine() -> str:
    """This machine in words: processor, cores, memory."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = models[0] if models else processor
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB"


def git_commit() -> str | None:
    """The commit of this code, with ``-dirty`` for uncommitted changes; None outside a git checkout."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
