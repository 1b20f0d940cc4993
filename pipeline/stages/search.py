"""The search stage: theta0, then the trials."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import ray
from torch import Tensor

from pipeline.cluster import raised_by, store_node, trial_resources
from pipeline.config import ModelConfig
from pipeline.data import KINDS, Splits
from pipeline.errors import SearchError
from pipeline.evaluation import split_figures
from pipeline.gauges import show_trials
from pipeline.models import make_theta0
from pipeline.precision import reproducible
from pipeline.records import IngredientRecord, RunRecord, cost_by_device, costs
from pipeline.records.folder import update_run
from pipeline.records.tables import write_table
from pipeline.registry import IngredientRecorder, log_settings, note_stop, read_trials
from pipeline.report.formats import memory
from pipeline.search.advice import about_trials, fit_batches
from pipeline.search.sampling import sample_trials
from pipeline.search.storage import Storage
from pipeline.search.trial import TrialContext
from pipeline.search.tuner import run_trials
from pipeline.stages.context import Run
from pipeline.stages.imported import write_imported
from pipeline.stages.live import Live
from pipeline.weights import read_checkpoint, read_weights, save_weights, unique_state, weights_sha256

logger = logging.getLogger(__name__)

# Weights and two moments of AdamW, the old and the new file together.
_STATE_COPIES = 6


def search_stage(run: Run) -> None:
    """Make theta0, run the trials that are not recorded, write ``ingredients.parquet``."""
    if run.state.imported:
        write_imported(run)
        return
    config, splits = run.config, run.splits
    storage = Storage(config.search.storage or str(run.folder.trials)).child(run.state.sweep_id)
    if config.search.storage is not None:
        storage.check()
    record = ensure_theta0(run)
    log_settings(run.sweep, run.folder.run)  # with what methods are called, for those who look on
    theta0 = read_weights(run.folder.theta0)
    recorder = IngredientRecorder(run.sweep, record.theta0_sha256, splits.class_names)
    recorder.upload_theta0(theta0, record.theta0_figures)
    use_gpu, reserved = trial_resources(run.cluster, config.search)
    drawn = sample_trials(config.search, config.seed, KINDS[splits.kind].meaningless)
    for warning in about_trials(drawn, len(splits.train), config.model):
        logger.warning("%s", warning)
    context = TrialContext(
        name=config.name,
        trials=tuple(fit_batches(drawn, len(splits.train))),
        build_model=run.build_model(),
        splits=run.splits_ref,
        theta0=ray.put(theta0),
        theta0_sha256=record.theta0_sha256,
        settings=config.search,
        use_gpu=use_gpu,
        reserved=reserved,
        storage=storage,
        experiments=run.folder.trials,
        reports=run.folder.reports,
        recorder=recorder,
        only_node=store_node(str(config.registry.tracking_uri)),
    )
    recorded = read_trials(run.sweep)
    logger.info("search: %d trials, %d of them recorded", len(context.trials), len(recorded))
    if len(recorded) < len(context.trials):
        _check_disk(run, theta0, len(context.trials) - len(recorded))
    rule = config.search.stop
    beside = Live(run, len(drawn)) if rule.is_given or config.study_settings("cost-accuracy").live else None
    note_stop(run.sweep, None if beside is None else beside.reason)  # it may have been ended, and goes on
    run_trials(context, recorded, f"tune-{datetime.now(UTC):%Y%m%d-%H%M%S}", beside)
    rows = read_trials(run.sweep)
    stopped = None if beside is None else beside.reason
    if stopped is None and len(rows) < len(context.trials):
        raise SearchError(
            f"only {len(rows)} of {len(context.trials)} trials are recorded; give the same command again to go on"
        )
    write_table(run.folder.ingredients, rows, IngredientRecord)
    show_trials(config.name, rows, running=0, waiting=0, seconds_left=0.0)
    update_run(run.folder, stopped=stopped)
    note_stop(run.sweep, stopped)
    if beside is not None:
        beside.finish(rows)
    storage.remove()
    shutil.rmtree(run.folder.trials, ignore_errors=True)
    ingredients = [row for row in rows if row.is_ingredient]
    if not ingredients:
        raise SearchError(
            f"none of the {len(rows)} trials finished; the first: {rows[0].reason}. Correct the settings and start "
            "over with --fresh (this run is kept)"
        )
    cost = " and ".join(f"{hours:.3g} {unit}" for unit, hours in costs(rows).items())
    stopped_early = sum(row.status == "stopped" for row in rows)
    early = f", {stopped_early} stopped early" if stopped_early else ""
    finished = sum(row.status == "finished" for row in rows)
    logger.info("search: %d of %d trials finished%s, %s", finished, len(rows), early, cost)
    if len(by_device := cost_by_device(rows)) > 1:
        logger.info("search: %s", ", ".join(f"{hours:.3g} on {device}" for device, hours in by_device.items()))


def _check_disk(run: Run, theta0: Mapping[str, Tensor], num_trials: int) -> None:
    """Say what the sweep leaves on disk; raises SearchError where ingredients stay on this one and cannot fit."""
    model_bytes = sum(value.nbytes for value in theta0.values())
    free_bytes = shutil.disk_usage(run.folder.root).free
    in_storage = f" in {run.config.search.storage}" if run.config.search.storage is not None else ""
    logger.info(
        "search: %d ingredients take %s on disk, each running trial %s%s to go on from; %s are free in %s",
        num_trials, memory(num_trials * model_bytes), memory(_STATE_COPIES * model_bytes), in_storage,
        memory(free_bytes), run.folder.root,
    )  # fmt: skip
    if str(run.config.registry.tracking_uri).startswith("sqlite:") and num_trials * model_bytes > free_bytes:
        raise SearchError(
            f"{run.folder.root}: {num_trials} ingredients take {memory(num_trials * model_bytes)}, but "
            f"{memory(free_bytes)} are free; "
            "free some space, or give another `output` or fewer search.num_trials"
        )


def ensure_theta0(run: Run) -> RunRecord:
    """The run's record; makes theta0 in a Ray task of its own the first time."""
    if run.folder.run.exists() and run.folder.theta0.exists():
        return run.record()
    config, splits = run.config, run.splits
    reserved = 1 if run.cluster.use_gpu else run.cluster.cpus
    logger.info("search: making theta0 (%s head)", config.model.head.replace("_", "-"))
    options = {"num_gpus": 1} if run.cluster.use_gpu else {"num_cpus": reserved}
    # Retried where its node is lost: it comes out the same. Its process ends with it and leaves the GPU to trials.
    task = ray.remote(max_retries=3, **options)(_theta0_task)
    # Read here: the task may be on a node that does not have the file.
    file_weights = None
    if config.model.weight_file is not None:
        checkpoint = read_checkpoint(config.model.weight_file)
        if checkpoint.choice is not None:
            logger.info("search: %s: %s", config.model.weight_file, checkpoint.choice)
        file_weights = checkpoint.state
    try:
        state, seconds, figures = ray.get(
            task.remote(config.model, file_weights, run.splits_ref, run.cluster.device, config.seed)
        )
    except ray.exceptions.RayError as error:
        raise raised_by(error, SearchError, "the task that makes theta0") from error
    save_weights(state, run.folder.theta0, {"class_names": "\n".join(splits.class_names)})
    record = run.begin(weights_sha256(state), seconds / 3600 * reserved, figures, run.cluster.device)
    logger.info(
        "search: theta0 has validation %s %.2f%%, test %.2f%%",
        record.metric_label, 100 * (record.theta0_score("val") or 0), 100 * (record.theta0_score("test") or 0),
    )  # fmt: skip
    return record


@reproducible
def _theta0_task(
    config: ModelConfig, file_weights: dict[str, Tensor] | None, splits: Splits, device: str, seed: int
) -> tuple[dict[str, Tensor], float, dict[str, float | None]]:
    """theta0's weights, the seconds that it took, its `figures`."""
    start = time.monotonic()
    pretrain = splits.pretrain.tensors() if splits.pretrain is not None else None
    names = splits.class_names
    model = make_theta0(
        config,
        names,
        splits.train,
        pretrain,
        device=device,
        seed=seed,
        local=file_weights,
        precision=splits.precision,
    )
    figures = split_figures(model, splits, device, tuple(splits.measured()))
    return unique_state(model.cpu()), time.monotonic() - start, figures
