"""The soup stage: the soup of every method over the whole sweep, registered, and the champion."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from pipeline.files import replacing, write_text
from pipeline.models import describe_model
from pipeline.records import CoefficientRecord, SoupRecord
from pipeline.records.tables import write_table
from pipeline.registry import fetch_soup, find_soup, log_soup_files, set_champion
from pipeline.stages.building import built_soups, new_soups, soup_context, whole_sweep
from pipeline.stages.context import Run

logger = logging.getLogger(__name__)


def soup_stage(run: Run) -> None:
    """Build the soup of every method that is not built yet, write the tables, name the champion."""
    rows, methods = run.ingredients(), run.config.soup.methods
    described = describe_model(run.config.model, run.config.data.image_size, run.splits.class_names)
    context = soup_context(run, rows, described)
    requests = {method: whole_sweep(run, rows, method) for method in methods}
    # Soups of studies, which go by other names, are not registered.
    found = built_soups(run, context, requests)
    known = {method: built.record for method, built in found.items() if built.name == method}
    already = f", {len(known)} of them built already" if known else ""
    logger.info(
        "soup: %d methods over %d ingredients%s", len(methods), len(requests[methods[0]].trial_indices), already
    )
    missing = {method: request for method, request in requests.items() if method not in known}
    for method, result, built in new_soups(run, context, missing, tasks=1):
        files = [run.path(built.predictions)]
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


def _keep(source: Path, target: Path) -> None:
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
    if source.parent == target.parent:  # downloaded for this copy
        source.unlink()
