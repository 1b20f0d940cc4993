"""Running the stages that are left to do, on a cluster and with a registry."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import ray

from pipeline.cluster import await_room, check_store, start_ray
from pipeline.config import Config, ray_address
from pipeline.data import KINDS, Splits, StreamedExamples, load_splits
from pipeline.errors import DataError, SoupError
from pipeline.metrics import ACCURACY
from pipeline.models import check_model
from pipeline.precision import resolved
from pipeline.provenance import git_commit, library_versions
from pipeline.records import IngredientRecord
from pipeline.records.folder import RunFolder, read_run
from pipeline.records.tables import write_table
from pipeline.registry import METRIC, log_datasets, log_settings, open_sweep, store_errors, under_way
from pipeline.search.advice import about_splits, resolution
from pipeline.stages.context import Run
from pipeline.stages.report import report_stage
from pipeline.stages.restoring import artifacts_of
from pipeline.stages.search import search_stage
from pipeline.stages.soup import soup_stage
from pipeline.stages.state import RunState, left_out, remove_studies, save_state, with_left_out
from pipeline.stages.study import study_stage
from pipeline.studies import STUDIES

logger = logging.getLogger(__name__)


def run_stage(run: Run, stage: str) -> None:
    """Do one stage. Raises PipelineError."""
    if stage in STUDIES:
        study_stage(run, stage)
    else:
        {"search": search_stage, "soup": soup_stage, "report": report_stage}[stage](run)


def run_pending(config: Config, state: RunState, todo: Sequence[str], fingerprint_of: Mapping[str, str]) -> None:
    """Run the stages ``todo`` in order, each marked as done in ``state`` with its fingerprint.

    Raises PipelineError; what was done before stays done.
    """
    with store_errors(str(config.registry.tracking_uri)):
        run = open_run(config, state, tasks=set(todo) != {"report"})
        with under_way(run.sweep):
            for stage in todo:
                if stage in ("search", "soup"):  # what studies said of other ingredients or soups is true no more
                    remove_studies(run.folder, state, stage)
                if stage != "search":
                    mark_left_out(run)
                run_stage(run, stage)
                state.done.pop("report", None)  # it tells of all stages
                state.done[stage] = fingerprint_of[stage]
                save_state(run.folder, state)


def mark_left_out(run: Run) -> None:
    """Make ``ingredients.parquet`` say which trials are left out by the settings as they are now.

    Raises ConfigError for trials that there are not, SoupError where no finished one is left.
    """
    names, rows = left_out(run.config, run.state), run.ingredients()
    marked = with_left_out(rows, names)
    if names and not any(row.is_ingredient for row in marked):
        raise SoupError("soup.leave_out: leaves no finished trial to make a soup of")
    if marked != rows:
        write_table(run.folder.ingredients, marked, IngredientRecord)
        logger.info("left out by soup.leave_out: %s", ", ".join(map(str, names.values())) or "none any more")


def open_run(config: Config, state: RunState, *, tasks: bool = True) -> Run:
    """Join the cluster, read the data, find the sweep in the registry or make it. Raises PipelineError.

    With ``tasks`` the cluster must be able to run them.
    """
    uri = str(config.registry.tracking_uri)
    folder = RunFolder(config.output)
    if not folder.run.exists():  # until theta0 is made
        check_model(config.model, config.data)
    cluster = start_ray(config.plugins, ray_address())
    check_store(cluster, uri)
    if tasks:
        cluster = await_room(cluster, config.search)
        check_store(cluster, uri)
    # As the run was begun: elsewhere the default would be another.
    precision = read_run(folder).precision if folder.run.exists() else resolved(config.precision, cluster.device)
    splits = replace(load_splits(config.data, config.seed, cluster.image_bytes), precision=precision)
    _check_same_data(folder, splits)
    logger.info("data: %s", ", ".join(f"{record.size} {record.name}" for record in splits.records))
    sizes = {record.name: record.size for record in splits.records}
    logger.info("data: %s", resolution(sizes))
    for warning in about_splits(sizes, KINDS[splits.kind].plural):
        logger.warning("%s", warning)
    if isinstance(splits.train, StreamedExamples):
        logger.info("data: training %s are streamed from %s", KINDS[splits.kind].plural, splits.train.path)
    origin = {"seed": str(config.seed), "git_commit": git_commit() or "unknown", **library_versions()}
    origin |= {f"split_{record.name}": record.indices_sha256 for record in splits.records}
    if splits.metric != ACCURACY:
        origin[METRIC] = splits.metric
    sweep = open_sweep(uri, config.name, state.sweep_id, artifacts_of(config), origin)
    log_settings(sweep, folder.settings)
    log_datasets(sweep, config.data.source, splits.records)
    return Run(config, state, sweep, cluster, splits, ray.put(splits))


def _check_same_data(folder: RunFolder, splits: Splits) -> None:
    """Raises DataError if the run in ``folder`` was begun with other data, which its trials were trained on."""
    if not folder.run.exists():
        return
    earlier_splits = {record.name: record for record in read_run(folder).splits}
    for record in splits.records:
        earlier = earlier_splits.get(record.name)
        if earlier is None or record.name in splits.shifts:  # these may change
            continue
        known = None not in (earlier.images_sha256, record.images_sha256)
        if earlier.indices_sha256 != record.indices_sha256 or (known and earlier.images_sha256 != record.images_sha256):
            raise DataError(
                f"data: the {record.size} {KINDS[splits.kind].plural} of split '{record.name}' are not the "
                f"{earlier.size} that the run in {folder.root} was begun with (files changed, or this version reads "
                "more of them or reads them otherwise); restore them, give another `output`, or --fresh to start over "
                "(the old run is kept)"
            )
