"""The studies of a finished sweep: each a table of its own, from soups of which only the missing ones are built."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

from pipeline.data import read_table, write_table
from pipeline.records import ComparisonRecord, CostRecord, PredictionRecord, SoupRecord
from pipeline.registry import log_costs
from pipeline.soup_task import SoupRequest, soup_key
from pipeline.stages.building import Built, built_soups, new_soups, soup_context, soup_request
from pipeline.stages.context import Run
from pipeline.studies import compare_methods, cost_points

logger = logging.getLogger(__name__)


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
    settings = run.config.study.cost_accuracy
    orders = [None, *range(1, settings.orders + 1)]
    request = functools.partial(soup_request, run)
    points = cost_points(run.ingredients(), settings.methods, settings.step, orders, request)
    soups = _soups(run, "cost-accuracy", {point.name: point.request for point in points})
    rows = [point.record(soups[point.name].record, soups[point.name].predictions) for point in points]
    write_table(run.path("cost_accuracy.parquet"), rows, CostRecord)
    log_costs(run.sweep, rows)


def _soups(run: Run, study: str, requests: Mapping[str, SoupRequest]) -> dict[str, Built]:
    """All soups of a study by name; the missing ones are built, as many side by side as there are GPUs."""
    context = soup_context(run, run.ingredients(), None)
    keys = {name: soup_key(context, request) for name, request in requests.items()}
    soups = {keys[name]: built for name, built in built_soups(run, context, requests).items()}
    missing = {key: name for name, key in keys.items() if key not in soups}
    wanted = {name: requests[name] for name in missing.values()}
    for name, result, built in new_soups(run, context, wanted, tasks=max(run.cluster.gpus, 1)):
        soups[keys[name]] = built
        done = len(missing) - sum(key not in soups for key in missing)
        accuracy = 100 * result.record.val_accuracy
        logger.info("%s: %s: validation %.2f%%, %d of %d soups", study, name, accuracy, done, len(missing))
    return {name: soups[key] for name, key in keys.items()}
