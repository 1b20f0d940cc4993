"""The soup stage and the studies: whatever is built in soup tasks, and only what is not built yet."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.data import read_table, write_table
from pipeline.models import describe_model, save_weights
from pipeline.records import (
    CoefficientRecord,
    ComparisonRecord,
    CostRecord,
    IngredientRecord,
    ModelDescription,
    PredictionRecord,
    SoupRecord,
    cumulative_gpu_hours,
)
from pipeline.registry import fetch_soup, find_soup, log_costs, log_soup_files, set_champion
from pipeline.soup_task import SoupContext, SoupRequest, SoupResult, build_soups, soup_key
from pipeline.stages.context import Run
from pipeline.state import BuiltSoup, save_state, write_text
from pipeline.studies import compare_methods, cost_record, cost_requests

logger = logging.getLogger(__name__)


def soup_stage(run: Run) -> None:
    """Build the soup of every method that is not built yet, write the tables, name the champion."""
    rows = run.ingredients()
    finished = [row for row in rows if row.status == "finished"]
    everything = tuple(row.trial_index for row in finished)
    cost = cumulative_gpu_hours(rows, len(finished))
    methods = run.config.soup.methods
    requests = {method: SoupRequest(method, everything, cost) for method in methods}
    described = describe_model(run.config.model, run.config.data.image_size, run.splits.class_names)
    context = _soup_context(run, rows, described)
    there = [method for method in methods if run.path("predictions", f"{method}.parquet").exists()]
    known = _known_soups(run, context, {method: requests[method] for method in there})
    already = f", {len(known)} of them built already" if known else ""
    logger.info("soup: %d methods over %d ingredients%s", len(methods), len(finished), already)
    for method, result in _new_soups(run, context, requests, known):
        files = [run.path("predictions", f"{method}.parquet")]
        write_table(files[0], result.predictions, PredictionRecord)
        if result.is_model:
            files.append(run.path("coefficients", f"{method}.parquet"))
            write_table(files[1], result.coefficients, CoefficientRecord)
            stored = fetch_soup(find_soup(run.sweep, method), run.path("soups"))
            _keep(stored, run.path("soups", f"{method}.safetensors"))
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


def _known_soups(run: Run, context: SoupContext, requests: Mapping[str, SoupRequest]) -> dict[str, SoupRecord]:
    """Those of the named ``requests`` that an earlier call has built, from the same ingredients, settings and seed."""
    return {
        name: built.record.model_copy(update={"gpu_hours": request.gpu_hours})
        for name, request in requests.items()
        if (built := run.state.soups.get(name)) and built.key == soup_key(context, request)
    }


def _new_soups(
    run: Run,
    context: SoupContext,
    requests: Mapping[str, SoupRequest],
    known: Mapping[str, SoupRecord],
) -> Iterator[tuple[str, SoupResult]]:
    """Build the named ``requests`` that are not ``known``, one after the other; each is remembered when it is used."""
    missing = [name for name in requests if name not in known]
    if not missing:
        return
    said: set[str] = set()
    results = build_soups(context, [requests[name] for name in missing], run.cluster.cpus)
    for name, result in zip(missing, results, strict=True):
        # Until the caller has written its files it does not count: those of an earlier soup may be half replaced.
        run.state.soups.pop(name, None)
        save_state(run.config, run.state)
        for reason in result.left_out:
            if reason not in said:
                said.add(reason)
                logger.info("soup: left out: %s", reason)
        yield name, result
        if not result.left_out:  # a restored file makes another soup
            run.state.soups[name] = BuiltSoup(key=soup_key(context, requests[name]), record=result.record)
            save_state(run.config, run.state)


def _keep(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)
    if source.parent == target.parent:  # downloaded for this copy
        source.unlink()


def study_stage(run: Run) -> None:
    """The studies of a finished sweep, each a table of its own."""
    _comparisons(run)
    _cost_curve(run)


def _comparisons(run: Run) -> None:
    """``comparisons.parquet``: every pair of methods on the test images."""
    soups = read_table(run.path("soups.parquet"), SoupRecord)
    predictions = {
        row.method: read_table(run.path("predictions", f"{row.method}.parquet"), PredictionRecord) for row in soups
    }
    write_table(run.path("comparisons.parquet"), compare_methods(predictions), ComparisonRecord)


def _cost_curve(run: Run) -> None:
    """``cost_accuracy.parquet`` and the metrics of its MLflow runs."""
    rows, settings = run.ingredients(), run.config.study.cost_accuracy
    context = _soup_context(run, rows, None)
    wanted = cost_requests(rows, settings.methods, settings.step)
    requests = {f"{request.method}/{len(request.trial_indices)}": request for request in wanted}
    by_method = {request.method: request for request in wanted}  # the last of each, over all trials
    whole = _known_soups(run, context, by_method)
    known = _known_soups(run, context, requests)
    known |= {f"{method}/{len(by_method[method].trial_indices)}": row for method, row in whole.items()}
    for name, result in _new_soups(run, context, requests, known):
        row = known[name] = result.record
        logger.info(
            "study: %s of %d ingredients: validation %.2f%%, %d of %d soups",
            row.method, row.num_ingredients, 100 * row.val_accuracy, len(known), len(wanted),
        )  # fmt: skip
    points = [cost_record(known[name], request) for name, request in requests.items()]
    points.sort(key=lambda point: (settings.methods.index(point.method), point.num_ingredients))
    write_table(run.path("cost_accuracy.parquet"), points, CostRecord)
    log_costs(run.sweep, points)


def _soup_context(run: Run, rows: Sequence[IngredientRecord], description: ModelDescription | None) -> SoupContext:
    config = run.config
    return SoupContext(
        sweep=run.sweep,
        splits=run.splits_ref,
        build_model=run.build_model(),
        save=save_weights,
        val_accuracies={row.trial_index: row.val_accuracy for row in rows if row.val_accuracy is not None},
        sha256s={row.trial_index: row.sha256 for row in rows},
        settings=config.soup.settings,
        include_initialization=config.soup.include_initialization,
        seed=config.seed,
        device=run.cluster.device,
        skip_damaged=config.soup.damaged == "skip",
        description=description,
    )
