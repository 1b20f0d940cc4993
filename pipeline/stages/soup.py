"""The soup stage: the soup of every method over the whole sweep, registered, and the champion."""

from __future__ import annotations

import functools
import logging
import shutil

from pipeline.files import replacing
from pipeline.gauges import show_soup
from pipeline.models import describe_model, has_batchnorm
from pipeline.records import CoefficientRecord, LossRecord, SoupRecord
from pipeline.records.folder import update_run
from pipeline.records.tables import write_table
from pipeline.registry import fetch_soup, log_soup_files, point_aliases, set_champion, soup_of_run
from pipeline.report import below_start
from pipeline.soup_task import SoupResult
from pipeline.stages.building import is_built, obtain_soups, soup_context, soup_request
from pipeline.stages.context import Run
from pipeline.stages.restoring import restore_soups
from pipeline.studies import finished_trials, whole_sweep

logger = logging.getLogger(__name__)

_BEST, _BEST_RENEWED = "best-individual", "best-individual-renewed"


def soup_stage(run: Run) -> None:
    """Build the soup of every method that is not built yet, write the tables, name the champion."""
    rows, methods = run.ingredients(), stage_methods(run)
    restore_soups(run.config, run.state, run.sweep, rows, run.splits.class_names, methods)
    request = functools.partial(soup_request, run.config, run.precision, rows)
    requests = {method: whole_sweep(request, rows, method) for method in methods}
    run_ids = {method: str(run.state.soups[method].run_id) for method in methods if method in run.state.soups}
    ready = [method for method, request in requests.items() if is_built(run, method, request)]
    for method in ready:
        show_soup(run.config.name, method, run.state.soups[method].record)
    already = f", {len(ready)} of them built already" if ready else ""
    logger.info("soup: %d methods over %d ingredients%s", len(methods), len(finished_trials(rows)), already)

    def keep(method: str, result: SoupResult) -> None:
        """Weights and tables as files; the tables beside the method's MLflow run too."""
        run_ids[method] = str(result.run_id)
        show_soup(run.config.name, method, result.record)
        if result.is_model:
            write_table(run.folder.coefficients(method), result.coefficients, CoefficientRecord)
            _copy_weights(run, method, run_ids[method])
        if result.losses:
            write_table(run.folder.history(method), result.losses, LossRecord)
        else:
            run.folder.history(method).unlink(missing_ok=True)
        log_soup_files(run.sweep, run_ids[method], run.folder.tables_of(method))

    described = describe_model(run.config.model, run.config.data, run.splits.class_names)
    context = soup_context(run, rows, described)
    soups = obtain_soups(run, context, requests, tasks=1, under_any_name=False, stage="soup", keep=keep)
    shutil.rmtree(run.unfinished_soups, ignore_errors=True)  # of settings that are no more
    write_table(run.folder.soups, [soups[method].record for method in methods], SoupRecord)
    run_ids = {method: run_ids[method] for method in methods}
    run.sweep.supersede_others("soup", run_ids.values())
    point_aliases(run.sweep, run_ids)
    models = [soups[method].record for method in methods if run.folder.soup(method).exists()]
    if models:
        champion = max(models, key=lambda row: row.rank)
        set_champion(run.sweep, champion.method, run_ids[champion.method])
        record = update_run(run.folder, champion=champion.method)
        if below := below_start(record, champion):
            logger.warning("soup: the champion, %s, is below the starting point: %s", champion.method, below)


def stage_methods(run: Run) -> list[str]:
    """The methods to build: those of the settings, and what renewing BatchNorm statistics does to the best trial alone.

    Soups have them renewed, and trials have their own: without that row the two would be compared.
    """
    methods = list(run.config.soup.methods)
    if _BEST in methods and _BEST_RENEWED not in methods and has_batchnorm(run.build_model()()):
        methods.insert(methods.index(_BEST) + 1, _BEST_RENEWED)
    return methods


def _copy_weights(run: Run, method: str, run_id: str) -> None:
    """The file of the method's model version, in the run's folder."""
    target = run.folder.soup(method)
    stored = fetch_soup(soup_of_run(run.sweep, run_id), target.parent)
    with replacing(target) as partial:
        shutil.copyfile(stored, partial)
    if stored.parent == target.parent:  # downloaded for this copy
        stored.unlink()
