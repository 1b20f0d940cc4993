"""What Ray Tune, MLflow and the accounting add to a sweep: the search stage against a bare loop over `finetune`.

    python tests/benchmarks/search_overhead.py --config configs/cifar10-small-vit.yaml search.num_trials=3 \
        data.train_size=4000 search.distributions.epochs=1

One trial at a time, with all cores, both ways. The stage's time is from the first trial's start to the last record, its
workers' start included, theta0 not. Also recorded: the share of the epochs' time that went into waiting for data.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import ray
import torch
from recording import record

from pipeline.cluster import start_ray
from pipeline.command_line import known_names
from pipeline.config import load_config
from pipeline.data import load_splits
from pipeline.finetune import finetune
from pipeline.models import build_classifier, load_weights, read_weights
from pipeline.records import EpochRecord
from pipeline.registry import open_sweep
from pipeline.search.spaces import sample_trials
from pipeline.stages.context import Run
from pipeline.stages.search import search_stage
from pipeline.state import open_state


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    options = parser.parse_args()
    cluster = start_ray()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "runs" / "overhead"
        overrides = [*options.overrides, f"search.cpus_per_trial={cluster.cpus}", f"output={output}"]
        config = load_config(options.config, overrides, known_names())
        splits = load_splits(config.data, config.seed)
        state, _ = open_state(config, fresh=False)
        uri = str(config.registry.tracking_uri)
        sweep = open_sweep(uri, config.name, state.sweep_id, Path(folder) / "artifacts", {"split_fit": ""})
        run = Run(config, state, sweep, cluster, splits, ray.put(splits))
        start = time.perf_counter()
        search_stage(run)
        theta0 = run.record().theta0_gpu_hours * 3600 / (1 if cluster.use_gpu else cluster.cpus)
        stage = time.perf_counter() - start - theta0
        rows = run.ingredients()
        loop, epochs = bare_loop(run)
    record(
        "search_overhead",
        cluster.device,
        options={"config": options.config, "overrides": options.overrides},
        trials=len(rows),
        seconds_per_trial=loop / len(rows),
        stage_seconds=stage,
        loop_seconds=loop,
        ratio=stage / loop,
        data_wait=statistics.mean(epoch.data_wait for epoch in epochs),
    )


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
