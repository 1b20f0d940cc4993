"""A sweep on a Ray of its own that gets into trouble: `python troubled_sweep.py memory|node FOLDER`.

Three trials of an epoch each. With `memory`, trial 1 then takes memory until Ray's monitor kills it; with `node`, the
node that it is on leaves. The records are in FOLDER afterwards, the log goes to stdout.
"""

import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDERS = [HERE.parents[1], HERE.parent, HERE.parent / "search", HERE]
sys.path[:0] = [str(folder) for folder in FOLDERS]
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, FOLDERS))
os.environ["OMP_NUM_THREADS"] = "1"

import ray  # noqa: E402
import torch  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from samples import digit_splits, search_config  # noqa: E402
from search_samples import FolderRecorder, Small, build  # noqa: E402

from pipeline.search.sampling import sample_trials  # noqa: E402
from pipeline.search.storage import Storage  # noqa: E402
from pipeline.search.trial import TrialContext  # noqa: E402
from pipeline.search.tuner import run_trials  # noqa: E402
from pipeline.weights import unique_state  # noqa: E402

MARGIN = 1.5e9  # bytes that the machine may use beyond what it uses now


@dataclass(frozen=True)
class Troubled(FolderRecorder):
    """Trouble comes when the weights are uploaded: the last epoch is saved by then."""

    kind: str = ""

    def upload(self, trial_index, state):
        if trial_index == 1:
            if self.kind == "memory":
                held = []
                for _ in range(100):
                    held.append(torch.ones(12_500_000))  # 50 MB
                    time.sleep(0.1)
            elif not (self.folder / "left").exists():
                (self.folder / "node").write_text(ray.get_runtime_context().get_node_id())
                time.sleep(600)  # until the node leaves
        return super().upload(trial_index, state)


def take_away(cluster: Cluster, workers: list, folder: Path) -> None:
    """The node that trial 1 runs on leaves the cluster without a word."""
    place = folder / "node"
    while not (place.exists() and place.read_text()):
        time.sleep(0.1)
    (folder / "left").touch()
    cluster.remove_node(next(node for node in workers if node.node_id == place.read_text()), allow_graceful=False)


def main(kind: str, folder: Path) -> None:
    recorder = Troubled(folder, {}, kind)
    settings = {"epochs": 1, "batch_size": 64, "lr": 1e-3, "mixup": 0, "augmentation": "minimal"}
    config = search_config(num_trials=3, max_failures=1, distributions=settings)
    if kind == "memory":
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        threshold = 1 - (kib["MemAvailable"] * 1024 - MARGIN) / (kib["MemTotal"] * 1024)
        limits = {"memory_usage_threshold": threshold, "memory_monitor_refresh_ms": 100}
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="error", log_to_driver=False,
                 _system_config=limits)  # fmt: skip
    else:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
        threading.Thread(target=take_away, args=(cluster, workers, folder), daemon=True).start()
    context = TrialContext(
        name="sweep",
        trials=tuple(sample_trials(config, seed=0)),
        build_model=build,
        splits=ray.put(digit_splits(train=128)),
        theta0=ray.put(unique_state(Small())),
        theta0_sha256="f" * 64,
        settings=config,
        use_gpu=False,
        reserved=1.0,
        storage=Storage(str(folder / "trials")),
        experiments=folder / "trials",
        recorder=recorder,
    )
    run_trials(context, [], "sweep")
    sys.stdout.flush()
    os._exit(0)  # a cluster whose node was taken away does not end cleanly


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main(sys.argv[1], Path(sys.argv[2]))
