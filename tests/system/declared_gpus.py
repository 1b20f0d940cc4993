"""Trials and soups on two GPUs that are declared to Ray and not there: called by test_system_gpus.py.

    python declared_gpus.py FOLDER

Who had which GPU, and from when to when, is left in FOLDER/stays as lines of JSON. What would need a real GPU is
replaced.
"""

import json
import logging
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray

TESTS = Path(__file__).resolve().parents[1]
PATHS = [str(path) for path in (TESTS.parent, TESTS, TESTS / "search")]
sys.path[:0] = PATHS
os.environ["PYTHONPATH"] = os.pathsep.join([*PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])

from ray import tune  # noqa: E402
from samples import ingredient, search_config  # noqa: E402
from search_samples import FolderRecorder  # noqa: E402

from pipeline import soup_task  # noqa: E402
from pipeline.search import tuner  # noqa: E402
from pipeline.search.sampling import sample_trials  # noqa: E402
from pipeline.search.storage import Storage  # noqa: E402
from pipeline.search.trial import TrialContext  # noqa: E402

FOLDER = Path(sys.argv[1])
TRIALS, SOUPS, ROUNDS = 8, 4, 3


def stay(kind: str, seconds: float) -> None:
    begun = time.time()
    time.sleep(seconds)
    line = {"kind": kind, "gpus": ray.get_gpu_ids(), "begun": begun, "ended": time.time()}
    line |= {"process": os.getpid(), "visible": os.environ["CUDA_VISIBLE_DEVICES"]}
    with (FOLDER / "stays").open("a") as file:
        file.write(json.dumps(line) + "\n")


def run_trial(config, context):
    stay({"sweep": "trial", "live": "live trial"}[context.name], 3)
    tune.report({"row": ingredient(config["trial"]).model_dump_json()})


def build(context, requests, cpus):
    for name, request in requests.items():
        stay("soup", 1)
        yield name, request


def build_live(context, requests, cpus):
    yield None  # it has begun
    stay("live soup", 3)
    yield "a", requests["a"]


class Live:
    """A soup that is due when two trials have ended."""

    reason, building, is_built = None, None, False

    def look(self, rows):
        if self.building is None and not self.is_built and len(rows) >= 2:
            context = SimpleNamespace(device="cuda")
            self.building = soup_task.build_beside(context, {"a": "soup a"}, cpus=4, reserved=1)
        if self.building is None:
            return True
        came = next(self.building, None)
        if came == ("a", "soup a"):
            self.building, self.is_built = None, True
        return came is not False

    def decide(self, rows, under_way, upcoming):
        pass


def main() -> None:
    ray.init(
        address="local", num_cpus=8, num_gpus=2, include_dashboard=False, logging_level="error", log_to_driver=False
    )
    config = search_config(num_trials=TRIALS)
    context = TrialContext(
        name="sweep", trials=tuple(sample_trials(config, seed=0)), build_model=dict, splits=None, theta0=None,
        theta0_sha256=None, settings=config, use_gpu=True, reserved=0.5, storage=Storage(str(FOLDER / "kept")),
        experiments=FOLDER / "tune", recorder=FolderRecorder(FOLDER),
    )  # fmt: skip
    tuner.run_trial = run_trial
    tuner.run_trials(context, [], "sweep")
    requests = {name: f"soup {name}" for name in "abcd"[:SOUPS]}
    soup_task._build_soups = build_live
    live = Live()
    tuner.run_trials(replace(context, name="live", experiments=FOLDER / "live"), [], "live", live)
    assert live.is_built
    soup_task._build_soups = build
    for _ in range(ROUNDS):
        assert dict(soup_task.build_soups(SimpleNamespace(device="cuda"), requests, cpus=1, tasks=2)) == requests


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    main()
