"""What a run recorded in MLflow, as it was: what people changed there by hand is made again, or named in a line.

`pipeline.registry.changes` says what becomes of which change. Nothing here needs a cluster.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import PipelineError
from pipeline.files import file_sha256, scratch
from pipeline.metrics import ACCURACY
from pipeline.records import CoefficientRecord, CostRecord, IngredientRecord, RunRecord, SoupIngredient, SoupRecord
from pipeline.records.folder import RunFolder, read_coefficients, read_run
from pipeline.records.tables import read_table, write_table
from pipeline.registry import (
    METRIC,
    IngredientRecorder,
    SoupRun,
    Sweep,
    current_soups,
    file_changes,
    list_ingredients,
    log_costs,
    log_datasets,
    log_settings,
    log_soup_files,
    open_sweep,
    point_aliases,
    read_trials,
    recorded_runs,
    set_champion,
    soup_runs,
    store_errors,
    trial_changes,
)
from pipeline.soup_requests import SoupRequest
from pipeline.stages.building import soup_request
from pipeline.stages.state import RememberedSoup, RunState, fingerprints, save_state
from pipeline.studies import STUDIES, whole_sweep

logger = logging.getLogger(__name__)


def restore(config: Config, state: RunState) -> None:
    """Make what the run recorded in MLflow as it was. Raises PipelineError.

    A soup that nothing is left of is forgotten, so that its stage is not done any more and builds it again.
    """
    folder = RunFolder(config.output)
    if not folder.run.exists():
        return  # nothing is recorded yet
    record, uri = read_run(folder), str(config.registry.tracking_uri)
    with store_errors(uri):
        sweep = open_sweep(uri, config.name, state.sweep_id, artifacts_of(config), _origin(record))
        kept = {item.path for item in sweep.client().list_artifacts(sweep.run_id)}
        if folder.settings.name not in kept:
            log_settings(sweep, folder.settings)
            log_datasets(sweep, config.data.source, record.splits)
        rows = restore_trials(sweep, folder, record)
        fingerprint_of = fingerprints(config)
        done = {stage for stage, fingerprint in fingerprint_of.items() if state.done.get(stage) == fingerprint}
        if "soup" in done:
            methods = [row.method for row in read_table(folder.soups, SoupRecord)]
            lost = restore_soups(config, state, sweep, rows, record.class_names, methods)
            soups = {method: state.soups[method] for method in methods if method in state.soups}
            run_ids = {method: soup.run_id for method, soup in soups.items() if soup.run_id is not None}
            if len(run_ids) == len(methods):
                sweep.supersede_others("soup", run_ids.values())
            for line in point_aliases(sweep, run_ids):
                logger.info("MLflow: %s; moved back", line)
            if record.champion in run_ids:
                for line in set_champion(sweep, record.champion, run_ids[record.champion]):
                    logger.info("MLflow: %s; moved back", line)
            if lost:
                state.done.pop("soup")
                save_state(folder, state)
        for name, study in STUDIES.items():
            if name in done and study.curve is not None and (table := folder.table(study.curve)).exists():
                points = [row for row in read_table(table, study.tables[study.curve]) if isinstance(row, CostRecord)]
                log_costs(sweep, record.theta0_figures, points)
        if "report" in done and "soup" in state.done:
            recorded = None if record.recorded is None else recorded_runs(sweep)  # of an older version: as it was
            if folder.report.name not in kept or recorded != record.recorded:
                from pipeline.stages.report import make_report  # slow to import

                make_report(sweep, folder, recorded)


def artifacts_of(config: Config) -> Path | None:
    """Where a store without a server keeps files; a server knows itself."""
    local = str(config.registry.tracking_uri).startswith("sqlite:")
    return config.output.parent / "mlartifacts" if local else None


def _origin(record: RunRecord) -> dict[str, str]:
    """What versions say of where they come from, as the run was made."""
    splits = {f"split_{split.name}": split.indices_sha256 for split in record.splits}
    metric = {} if record.metric == ACCURACY else {METRIC: record.metric}
    return {
        "seed": str(record.seed),
        "git_commit": record.git_commit or "unknown",
        **record.versions,
        **splits,
        **metric,
    }


def restore_trials(sweep: Sweep, folder: RunFolder, record: RunRecord) -> list[IngredientRecord]:
    """The recorded trials, as `ingredients.parquet` then has them, if it is there: versions have new numbers."""
    known = read_table(folder.ingredients, IngredientRecord) if folder.ingredients.exists() else []
    if folder.theta0.exists() and all(version.trial_index is not None for version in list_ingredients(sweep)):
        from pipeline.weights import read_weights  # slow to import

        recorder = IngredientRecorder(sweep, record.theta0_sha256, tuple(record.class_names))
        recorder.upload_theta0(read_weights(folder.theta0), record.theta0_figures)
    for change in trial_changes(sweep, known):
        try:
            if change.undo is not None:
                change.undo()
            logger.info("MLflow: %s%s", change.what, "" if change.undo is None else "; made again")
        except PipelineError as error:
            logger.info("MLflow: %s; it cannot be made again: %s", change.what, error)
    recorded = {row.trial_index: row for row in read_trials(sweep)}
    if not known:
        return list(recorded.values())
    places = {index: {"path": row.path, "model_version": row.model_version} for index, row in recorded.items()}
    rows = [row.model_copy(update=places.get(row.trial_index, {})) for row in known]
    if rows != known:
        write_table(folder.ingredients, rows, IngredientRecord)
    return rows


def restore_soups(
    config: Config,
    state: RunState,
    sweep: Sweep,
    rows: Sequence[IngredientRecord],
    class_names: Sequence[str],
    methods: Sequence[str],
) -> list[str]:
    """Register the soups of ``methods`` that are built and not registered as they were, from files in the run's folder.

    Returns the methods of which there are no such files: their soups are forgotten.
    """
    folder, lost, before = RunFolder(config.output), [], dict(state.soups)
    precision = read_run(folder).precision
    registered = {soup.run_id: soup for soup in soup_runs(sweep)}
    for method in methods:
        request = whole_sweep(functools.partial(soup_request, config, precision, rows), rows, method)
        remembered = state.soups.get(method)
        if remembered is None or remembered.key.partition(" ")[0] != request.key:
            continue  # it is built anyway
        if remembered.run_id is None:  # of an older version
            remembered = state.soups[method] = _with_run(remembered, sweep, folder, method)
        soup = registered.get(str(remembered.run_id))
        if soup is not None and soup.is_intact and not file_changes(soup):
            continue
        run_id = _registered_again(config, sweep, soup, request, remembered, rows, class_names)
        if run_id is None:
            logger.info("MLflow: soup '%s' is not there any more; it will be built again", method)
            del state.soups[method]
            lost.append(method)
        else:
            logger.info("MLflow: soup '%s' is not there as it was; registered again", method)
            state.soups[method] = remembered.model_copy(update={"run_id": run_id})
    if state.soups != before:
        save_state(folder, state)
    return lost


def _with_run(remembered: RememberedSoup, sweep: Sweep, folder: RunFolder, method: str) -> RememberedSoup:
    soup, weights = current_soups(sweep).get(method), folder.soup(method)
    same = soup is not None and (not weights.exists() or f":{file_sha256(weights)}:" in soup.key)
    return remembered.model_copy(update={"run_id": soup.run_id}) if soup is not None and same else remembered


def _registered_again(
    config: Config,
    sweep: Sweep,
    soup: SoupRun | None,
    request: SoupRequest,
    remembered: RememberedSoup,
    rows: Sequence[IngredientRecord],
    class_names: Sequence[str],
) -> str | None:
    """The id of the soup's run; None where the folder does not have what it takes."""
    folder, method = RunFolder(config.output), request.method
    if soup is not None and not soup.is_model:
        return sweep.child_run(sweep.client(), "soup", soup.key, method)
    weights, coefficients = folder.soup(method), read_coefficients(folder, method)
    changed = soup is not None and weights.exists() and f":{file_sha256(weights)}:" not in soup.key
    if coefficients is None or not weights.exists() or changed:
        return None

    from pipeline.models import describe_model  # these are slow to import
    from pipeline.soup_task import register

    versions: dict[int | None, tuple[int, str]] = {
        row.trial_index: (row.model_version or 0, str(row.sha256)) for row in rows
    }
    versions |= {version.trial_index: (version.version, version.sha256) for version in list_ingredients(sweep)}
    layers, table = _matrix(coefficients)
    ingredients = []
    for index, values in table.items():
        trial_index = None if index == -1 else index
        version, sha256 = versions.get(trial_index, (0, ""))
        ingredients.append(
            SoupIngredient(model_version=version, trial_index=trial_index, sha256=sha256, coefficients=values)
        )
    with scratch() as copies:
        copy = shutil.copyfile(weights, copies / "model.safetensors")
        description = describe_model(config.model, config.data, class_names)
        run_id = register(sweep, description, request, remembered.record, layers, ingredients, copy)
    log_soup_files(sweep, run_id, folder.tables_of(method))
    return run_id


def _matrix(rows: Sequence[CoefficientRecord]) -> tuple[list[str], Mapping[int, list[float]]]:
    """The layers, and by trial the coefficients in each."""
    layers = list(dict.fromkeys(row.layer for row in rows))
    table: dict[int, list[float]] = {}
    for row in rows:
        table.setdefault(row.trial_index, []).append(row.coefficient)
    return layers, table
