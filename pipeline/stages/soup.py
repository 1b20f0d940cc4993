"""The soup stage: the soup of every method over the whole sweep, registered, and the champion."""

from __future__ import annotations

import logging
import shutil

from pipeline.files import replacing
from pipeline.models import describe_model
from pipeline.records import CoefficientRecord, SoupRecord
from pipeline.records.folder import predictions_path, update_run
from pipeline.records.tables import write_table
from pipeline.registry import fetch_soup, find_soup, log_soup_files, set_champion
from pipeline.soup_task import SoupResult
from pipeline.stages.building import is_built, obtain_soups, soup_context
from pipeline.stages.context import Run
from pipeline.stages.study import study_inputs

logger = logging.getLogger(__name__)


def soup_stage(run: Run) -> None:
    """Build the soup of every method that is not built yet, write the tables, name the champion."""
    rows, methods = run.ingredients(), run.config.soup.methods
    inputs = study_inputs(run)
    requests = {method: inputs.whole_sweep(method) for method in methods}
    ready = sum(is_built(run, method, request) for method, request in requests.items())
    already = f", {ready} of them built already" if ready else ""
    logger.info("soup: %d methods over %d ingredients%s", len(methods), len(inputs.finished), already)

    def keep(method: str, result: SoupResult) -> None:
        """Weights and coefficients as files; coefficients and predictions beside the method's MLflow run too."""
        files = [run.path(predictions_path(method))]
        if result.is_model:
            files.append(run.folder.coefficients(method))
            write_table(files[1], result.coefficients, CoefficientRecord)
            _copy_weights(run, method)
        log_soup_files(run.sweep, str(result.run_id), files)

    described = describe_model(run.config.model, run.config.data.image_size, run.splits.class_names)
    context = soup_context(run, rows, described)
    soups = obtain_soups(run, context, requests, tasks=1, under_any_name=False, stage="soup", keep=keep)
    shutil.rmtree(run.unfinished_soups, ignore_errors=True)  # of settings that are no more
    write_table(run.folder.soups, [soups[method].record for method in methods], SoupRecord)
    models = [soups[method].record for method in methods if run.folder.soup(method).exists()]
    if models:
        # `select` decides; `fit`, which the soups learned from, only where there is no `select` or it cannot.
        champion = max(models, key=lambda row: (row.select_accuracy or 0.0, row.val_accuracy)).method
        set_champion(run.sweep, champion)
        update_run(run.folder, champion=champion)


def _copy_weights(run: Run, method: str) -> None:
    """The file of the method's model version, in the run's folder."""
    target = run.folder.soup(method)
    stored = fetch_soup(find_soup(run.sweep, method), target.parent)
    with replacing(target) as partial:
        shutil.copyfile(stored, partial)
    if stored.parent == target.parent:  # downloaded for this copy
        stored.unlink()
