"""The stages of a run, wired: each reads what the one before it recorded, so any can be run again alone."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from torch import Tensor

from pipeline.cluster import Cluster, check_store, start_ray, trial_resources
from pipeline.config import Config, ModelConfig
from pipeline.data import Splits, StreamedImages, load_splits, read_table, write_table
from pipeline.errors import PipelineError, SearchError
from pipeline.evaluation import accuracy, predict
from pipeline.models import (
    build_classifier,
    make_theta0,
    read_weights,
    save_weights,
    unique_state,
    weights_sha256,
)
from pipeline.provenance import git_commit, library_versions, machine
from pipeline.records import (
    CoefficientRecord,
    CostRecord,
    IngredientRecord,
    PredictionRecord,
    RunRecord,
    SoupRecord,
    cost_unit,
    cumulative_gpu_hours,
)
from pipeline.registry import (
    IngredientRecorder,
    Sweep,
    fetch_soup,
    log_costs,
    log_files,
    log_settings,
    log_soup_files,
    open_sweep,
    read_trials,
    set_champion,
)
from pipeline.report import methods_table, write_report
from pipeline.report.formats import memory
from pipeline.search.spaces import sample_trials
from pipeline.search.trial import TrialContext
from pipeline.search.tuner import run_trials
from pipeline.soup_task import SoupContext, SoupRequest, SoupResult, build_soups, soup_key
from pipeline.state import BuiltSoup, RunState, save_state, write_text
from pipeline.studies import cost_record, cost_requests

logger = logging.getLogger(__name__)


# Weights and two moments of AdamW, the old and the new file together.
_STATE_COPIES = 6


@dataclass(frozen=True)
class Run:
    """What the stages of a run share; ``splits_ref`` is ``splits`` in Ray's object store, once for all tasks."""

    config: Config
    state: RunState
    sweep: Sweep
    cluster: Cluster
    splits: Splits
    splits_ref: ray.ObjectRef

    def path(self, *parts: str) -> Path:
        """A path in the run's folder."""
        return self.config.output.joinpath(*parts)

    def build_model(self) -> Any:
        """A picklable function that builds the architecture."""
        return functools.partial(build_classifier, self.config.model, len(self.splits.class_names))

    def record(self) -> RunRecord:
        """What the run was made with, as last written."""
        return RunRecord.model_validate_json(self.path("run.json").read_text(encoding="utf-8"))

    def ingredients(self) -> list[IngredientRecord]:
        """The recorded trials."""
        return read_table(self.path("ingredients.parquet"), IngredientRecord)


def search_stage(run: Run) -> None:
    """Make theta0, run the trials that are not recorded, write ``ingredients.parquet``."""
    config, splits = run.config, run.splits
    record = _theta0(run)
    theta0 = read_weights(run.path("theta0.safetensors"))
    recorder = IngredientRecorder(run.sweep, record.theta0_sha256, splits.class_names, save_weights)
    recorder.upload_theta0(theta0)
    use_gpu, reserved = trial_resources(run.cluster, config.search)
    context = TrialContext(
        name=config.name,
        trials=tuple(sample_trials(config.search, config.seed)),
        build_model=run.build_model(),
        splits=run.splits_ref,
        theta0=ray.put(theta0),
        theta0_sha256=record.theta0_sha256,
        settings=config.search,
        use_gpu=use_gpu,
        reserved=reserved,
        storage=run.path("trials"),
        recorder=recorder,
    )
    recorded = read_trials(run.sweep)
    logger.info("search: %d trials, %d of them recorded", len(context.trials), len(recorded))
    if len(recorded) < len(context.trials):
        _check_disk(run, theta0, len(context.trials) - len(recorded))
    run_trials(context, recorded, experiment=f"tune-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    rows = read_trials(run.sweep)
    write_table(run.path("ingredients.parquet"), rows, IngredientRecord)
    shutil.rmtree(run.path("trials"), ignore_errors=True)
    finished = [row for row in rows if row.status == "finished"]
    if not finished:
        raise SearchError(
            f"none of the {len(rows)} trials finished; the first: {rows[0].reason}. Correct the settings and start "
            "over with --fresh (this run is kept)"
        )
    cost = sum(row.gpu_hours for row in rows)
    logger.info("search: %d of %d trials finished, %.3g %s", len(finished), len(rows), cost, cost_unit(rows))


def _check_disk(run: Run, theta0: Mapping[str, Tensor], trials: int) -> None:
    """Say what the sweep leaves on disk; raises SearchError where ingredients stay on this one and cannot fit."""
    size = sum(value.nbytes for value in theta0.values())
    free = shutil.disk_usage(run.path()).free
    logger.info(
        "search: %d ingredients take %s on disk, each running trial %s to go on from; %s are free in %s",
        trials, memory(trials * size), memory(_STATE_COPIES * size), memory(free), run.path(),
    )  # fmt: skip
    if str(run.config.registry.tracking_uri).startswith("sqlite:") and trials * size > free:
        raise SearchError(
            f"{run.path()}: {trials} ingredients take {memory(trials * size)}, but {memory(free)} are free; "
            "free some space, or give another `output` or fewer search.num_trials"
        )


def _theta0(run: Run) -> RunRecord:
    """The run's record; makes theta0 in a Ray task of its own the first time."""
    if run.path("run.json").exists() and run.path("theta0.safetensors").exists():
        return run.record()
    config, splits = run.config, run.splits
    reserved = 1 if run.cluster.use_gpu else run.cluster.cpus
    logger.info("search: making theta0 (%s head)", config.model.head.replace("_", "-"))
    options = {"num_gpus": 1} if run.cluster.use_gpu else {"num_cpus": reserved}
    task = ray.remote(_theta0_task).options(max_retries=0, **options)
    try:
        state, seconds, measured = ray.get(task.remote(config.model, run.splits_ref, run.cluster.device, config.seed))
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, PipelineError) else error from error
    save_weights(state, run.path("theta0.safetensors"), {"class_names": "\n".join(splits.class_names)})
    record = RunRecord(
        name=config.name,
        sweep_id=run.state.sweep_id,
        seed=config.seed,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=git_commit(),
        versions=library_versions(),
        machine=machine(),
        class_names=list(splits.class_names),
        splits=list(splits.records),
        theta0_sha256=weights_sha256(state),
        theta0_gpu_hours=seconds / 3600 * reserved,
        theta0_test_accuracy=measured,
    )
    write_text(run.path("run.json"), record.model_dump_json(indent=1))
    logger.info("search: theta0 has test accuracy %.2f%%", 100 * measured)
    return record


def _theta0_task(config: ModelConfig, splits: Splits, device: str, seed: int) -> tuple[dict[str, Tensor], float, float]:
    """theta0's weights, the seconds that it took, its test accuracy."""
    start = time.monotonic()
    pretrain = splits.pretrain.tensors() if splits.pretrain is not None else None
    model = make_theta0(config, splits.class_names, splits.train, pretrain, device=device, seed=seed)
    images, labels = splits.test.tensors()
    measured = accuracy(predict(model.to(device), images, device), labels) or 0.0
    return unique_state(model.cpu()), time.monotonic() - start, measured


def soup_stage(run: Run) -> None:
    """Build the soup of every method that is not built yet, write the tables, name the champion."""
    rows = run.ingredients()
    finished = [row for row in rows if row.status == "finished"]
    everything = tuple(row.trial_index for row in finished)
    cost = cumulative_gpu_hours(rows, len(finished))
    methods = run.config.soup.methods
    requests = {method: SoupRequest(method, everything, cost) for method in methods}
    context = _soup_context(run, rows)
    there = [method for method in methods if run.path("predictions", f"{method}.parquet").exists()]
    known = _known_soups(run, context, rows, {method: requests[method] for method in there})
    already = f", {len(known)} of them built already" if known else ""
    logger.info("soup: %d methods over %d ingredients%s", len(methods), len(finished), already)
    for method, result in _new_soups(run, context, rows, requests, known):
        files = [run.path("predictions", f"{method}.parquet")]
        write_table(files[0], result.predictions, PredictionRecord)
        if result.is_model:
            files.append(run.path("coefficients", f"{method}.parquet"))
            write_table(files[1], result.coefficients, CoefficientRecord)
            _keep(fetch_soup(run.sweep, method, run.path("soups")), run.path("soups", f"{method}.safetensors"))
        log_soup_files(run.sweep, str(result.run_id), files)
        row = known[method] = result.record
        logger.info(
            "soup: %s: validation %.2f%%, %d of %d ingredients, %.1f s",
            row.method, 100 * row.val_accuracy, row.num_selected, row.num_ingredients, row.construction_seconds,
        )  # fmt: skip
    write_table(run.path("soups.parquet"), [known[method] for method in methods], SoupRecord)
    models = [known[method] for method in methods if run.path("soups", f"{method}.safetensors").exists()]
    if models:
        # `select` decides; `fit`, which the soups learned from, only where there is no `select` or it cannot.
        champion = max(models, key=lambda row: (row.select_accuracy or 0.0, row.val_accuracy)).method
        set_champion(run.sweep, champion)
        record = run.record()
        write_text(run.path("run.json"), record.model_copy(update={"champion": champion}).model_dump_json(indent=1))


def _known_soups(
    run: Run, context: SoupContext, rows: Sequence[IngredientRecord], requests: Mapping[str, SoupRequest]
) -> dict[str, SoupRecord]:
    """Those of the named ``requests`` that an earlier call has built, from the same ingredients, settings and seed."""
    sha256s = {row.trial_index: row.sha256 for row in rows}
    return {
        name: built.record.model_copy(update={"gpu_hours": request.gpu_hours})
        for name, request in requests.items()
        if (built := run.state.soups.get(name)) and built.key == soup_key(context, request, sha256s)
    }


def _new_soups(
    run: Run,
    context: SoupContext,
    rows: Sequence[IngredientRecord],
    requests: Mapping[str, SoupRequest],
    known: Mapping[str, SoupRecord],
) -> Iterator[tuple[str, SoupResult]]:
    """Build the named ``requests`` that are not ``known``, one after the other; each is remembered when it is used."""
    sha256s = {row.trial_index: row.sha256 for row in rows}
    missing = [name for name in requests if name not in known]
    if not missing:
        return
    results = build_soups(context, [requests[name] for name in missing], run.cluster.cpus)
    for name, result in zip(missing, results, strict=True):
        # Until the caller has written its files it does not count: those of an earlier soup may be half replaced.
        run.state.soups.pop(name, None)
        save_state(run.config, run.state)
        yield name, result
        run.state.soups[name] = BuiltSoup(key=soup_key(context, requests[name], sha256s), record=result.record)
        save_state(run.config, run.state)


def _keep(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)
    if source.parent == target.parent:  # downloaded for this copy
        source.unlink()


def study_stage(run: Run) -> None:
    """The cost curve: ``cost_accuracy.parquet`` and the metrics of its MLflow runs."""
    rows, settings = run.ingredients(), run.config.study.cost_accuracy
    context = dataclasses.replace(_soup_context(run, rows), register=False)
    wanted = cost_requests(rows, settings.methods, settings.step)
    requests = {f"{request.method}/{len(request.trial_indices)}": request for request in wanted}
    by_method = {request.method: request for request in wanted}  # the last of each, over all trials
    whole = _known_soups(run, context, rows, by_method)
    known = _known_soups(run, context, rows, requests)
    known |= {f"{method}/{len(by_method[method].trial_indices)}": row for method, row in whole.items()}
    for name, result in _new_soups(run, context, rows, requests, known):
        row = known[name] = result.record
        logger.info(
            "study: %s of %d ingredients: validation %.2f%%, %d of %d soups",
            row.method, row.num_ingredients, 100 * row.val_accuracy, len(known), len(wanted),
        )  # fmt: skip
    points = [cost_record(known[name], request) for name, request in requests.items()]
    points.sort(key=lambda point: (settings.methods.index(point.method), point.num_ingredients))
    write_table(run.path("cost_accuracy.parquet"), points, CostRecord)
    log_costs(run.sweep, points)


def report_stage(run: Run) -> None:
    """``report.html`` and the figures, also logged to the sweep's MLflow run."""
    rows = run.ingredients()
    record = run.record().model_copy(update=run.config.report.model_dump())
    write_text(run.path("run.json"), record.model_dump_json(indent=1))
    soups = read_table(run.path("soups.parquet"), SoupRecord)
    curve = run.path("cost_accuracy.parquet")
    costs = read_table(curve, CostRecord) if curve.exists() else []
    files = write_report(run.config.output, record, rows, soups, costs)
    records = (run.path("run.json"), *run.path().glob("*.parquet"))
    table = methods_table(soups, rows, record.champion)
    tags = {"champion": record.champion or "", "seed": str(record.seed), "mlflow.note.content": f"```\n{table}\n```"}
    log_files(run.sweep, [*files, *records], tags)


_RUN_STAGE = {"search": search_stage, "soup": soup_stage, "study": study_stage, "report": report_stage}


def _soup_context(run: Run, rows: Sequence[IngredientRecord]) -> SoupContext:
    config = run.config
    return SoupContext(
        sweep=run.sweep,
        splits=run.splits_ref,
        build_model=run.build_model(),
        save=save_weights,
        val_accuracies={row.trial_index: row.val_accuracy for row in rows if row.val_accuracy is not None},
        settings=config.soup.settings,
        include_initialization=config.soup.include_initialization,
        seed=config.seed,
        device=run.cluster.device,
        register=True,
    )


def run_pending(config: Config, state: RunState, todo: Sequence[str], wanted: dict[str, str]) -> None:
    """Run the stages ``todo`` in order, each marked as done in ``state`` with its fingerprint of ``wanted``.

    Raises PipelineError; what was done before stays done.
    """
    uri = str(config.registry.tracking_uri)
    cluster = start_ray()
    check_store(cluster, uri)
    splits = load_splits(config.data, config.seed, cluster.image_bytes)
    logger.info("data: %s", ", ".join(f"{record.size} {record.name}" for record in splits.records))
    if isinstance(splits.train, StreamedImages):
        logger.info("data: training images are streamed from %s", splits.train.path)
    artifacts = config.output.parent / "mlartifacts" if uri.startswith("sqlite:") else None
    origin = {"seed": str(config.seed), "git_commit": git_commit() or "unknown", **library_versions()}
    origin |= {f"split_{record.name}": record.indices_sha256 for record in splits.records}
    sweep = open_sweep(uri, config.name, state.sweep_id, artifacts, origin)
    log_settings(sweep, config.output / "config.yaml")
    run = Run(config, state, sweep, cluster, splits, ray.put(splits))
    for stage in todo:
        _RUN_STAGE[stage](run)
        state.done[stage] = wanted[stage]
        save_state(config, state)
