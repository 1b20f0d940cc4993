"""What Ray Tune, MLflow and the accounting add to a sweep: the search stage against a bare loop over `finetune`.

    python tests/benchmarks/search_overhead.py --config configs/cifar10-small-vit.yaml search.num_trials=3 \
        data.train_size=4000 search.distributions.epochs=1

One trial at a time, both ways, theta0 made before. On a machine without a GPU one core is left to Ray, as a GPU trial
leaves it all of them. What the stage takes more is told apart by the times of the trials' MLflow runs: before the first
(Tune and the worker start, libraries are imported), between them, within them (checkpoints of every epoch, metrics,
upload), after the last. Also recorded: how fast epochs went both ways, and the share of their time that went into
waiting for data.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import ray
import torch
from recording import record
from sizes import same

from pipeline.cluster import start_ray
from pipeline.commands.common import known_names
from pipeline.config import load_config
from pipeline.data import load_splits
from pipeline.finetune import finetune
from pipeline.models import build_classifier
from pipeline.records import EpochRecord
from pipeline.registry import Sweep, open_sweep
from pipeline.search.sampling import sample_trials
from pipeline.stages.context import Run
from pipeline.stages.search import ensure_theta0, search_stage
from pipeline.stages.state import open_state
from pipeline.weights import load_weights, read_weights


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    if any(override.split("=")[0] in ("search.cpus_per_trial", "output") for override in options.overrides):
        parser.error("search.cpus_per_trial and output are set here: one trial at a time, in a folder of its own")
    if not torch.cuda.is_available():
        cores = max(1, len(os.sched_getaffinity(0)) - 1)
        ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level="error")
    cluster = start_ray()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "runs" / "overhead"
        overrides = [*options.overrides, f"search.cpus_per_trial={cluster.cpus}", f"output={output}"]
        config = load_config(options.config, overrides, known_names)
        splits = load_splits(config.data, config.seed)
        state, _ = open_state(config, fresh=False)
        uri = str(config.registry.tracking_uri)
        sweep = open_sweep(uri, config.name, state.sweep_id, Path(folder) / "artifacts", {"split_fit": ""})
        run = Run(config, state, sweep, cluster, splits, ray.put(splits))
        ensure_theta0(run)
        start = time.time()
        search_stage(run)
        end = time.time()
        rows = run.ingredients()
        spans = trial_spans(sweep)
        same("trials", [row.status for row in rows], ["finished"] * config.search.num_trials)
        same("trials that ran beside another", sum(begun[0] < ended[1] for ended, begun in pairwise(spans)), 0)
        loop, epochs = bare_loop(run)
        same("epochs", sum(row.epochs for row in rows), len(epochs))
    record(
        "search_overhead",
        cluster.device,
        options={"config": options.config, "overrides": options.overrides},
        trials=len(rows),
        seconds_per_trial=loop / len(rows),
        stage_seconds=end - start,
        loop_seconds=loop,
        ratio=(end - start) / loop,
        seconds_before_the_first_trial=spans[0][0] - start,
        seconds_between_trials=[after[0] - before[1] for before, after in pairwise(spans)],
        seconds_within_trials_over_the_loop=sum(ended - begun for begun, ended in spans) - loop,
        seconds_after_the_last_trial=end - spans[-1][1],
        epoch_images_per_second={
            "stage": epoch_speed(sweep),
            "loop": statistics.mean(e.images_per_second for e in epochs),
        },
        data_wait=statistics.mean(epoch.data_wait for epoch in epochs),
    )


def trial_spans(sweep: Sweep) -> list[tuple[float, float]]:
    """When each trial began and ended, in seconds since the epoch."""
    runs = sweep.client().search_runs([sweep.experiment_id], "tags.role = 'trial'")
    return sorted((run.info.start_time / 1000, run.info.end_time / 1000) for run in runs)


def epoch_speed(sweep: Sweep) -> float:
    """Mean over the trials of the images per second that their last epochs trained on."""
    runs = sweep.client().search_runs([sweep.experiment_id], "tags.role = 'trial'")
    return statistics.mean(run.data.metrics["images_per_second"] for run in runs)


def bare_loop(run: Run) -> tuple[float, list[EpochRecord]]:
    """Seconds of the same trials one after the other in this process, and how their epochs went."""
    torch.set_num_threads(run.config.search.cpus_per_trial)
    theta0 = read_weights(run.path("theta0.safetensors"))
    epochs: list[EpochRecord] = []
    start = time.perf_counter()
    for trial in sample_trials(run.config.search, run.config.seed):
        model = build_classifier(run.config.model, len(run.splits.class_names))
        load_weights(model, theta0, source="theta0")
        finetune(
            model,
            run.splits,
            trial.hyper,
            run.config.search,
            device=run.cluster.device,
            on_epoch=lambda epoch, state: epochs.append(epoch),
        )
    return time.perf_counter() - start, epochs


if __name__ == "__main__":
    main()
