"""Running the stages that are left to do, on a cluster and with a registry."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import ray

from pipeline.cluster import await_room, check_store, start_ray
from pipeline.config import Config
from pipeline.data import StreamedImages, load_splits
from pipeline.provenance import git_commit, library_versions
from pipeline.records.folder import RunFolder
from pipeline.registry import log_datasets, log_settings, open_sweep, store_errors
from pipeline.stages.context import Run
from pipeline.stages.report import report_stage
from pipeline.stages.search import search_stage
from pipeline.stages.soup import soup_stage
from pipeline.stages.state import RunState, remove_studies, save_state
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
        for stage in todo:
            if stage in ("search", "soup"):  # what studies said of other ingredients or soups is true no more
                remove_studies(run.folder, state, stage)
            run_stage(run, stage)
            state.done.pop("report", None)  # it tells of all stages
            state.done[stage] = fingerprint_of[stage]
            save_state(run.folder, state)


def open_run(config: Config, state: RunState, *, tasks: bool = True) -> Run:
    """Join the cluster, read the images, find the sweep in the registry or make it. Raises PipelineError.

    With ``tasks`` the cluster must be able to run them.
    """
    uri = str(config.registry.tracking_uri)
    cluster = start_ray(config.plugins)
    check_store(cluster, uri)
    if tasks:
        cluster = await_room(cluster, config.search)
        check_store(cluster, uri)
    splits = load_splits(config.data, config.seed, cluster.image_bytes)
    logger.info("data: %s", ", ".join(f"{record.size} {record.name}" for record in splits.records))
    if isinstance(splits.train, StreamedImages):
        logger.info("data: training images are streamed from %s", splits.train.path)
    artifacts = config.output.parent / "mlartifacts" if uri.startswith("sqlite:") else None
    origin = {"seed": str(config.seed), "git_commit": git_commit() or "unknown", **library_versions()}
    origin |= {f"split_{record.name}": record.indices_sha256 for record in splits.records}
    sweep = open_sweep(uri, config.name, state.sweep_id, artifacts, origin)
    log_settings(sweep, RunFolder(config.output).settings)
    log_datasets(sweep, config.data.source, splits.records)
    return Run(config, state, sweep, cluster, splits, ray.put(splits))
