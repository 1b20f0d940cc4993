"""The studies of a finished sweep: each a table of its own, from soups of which only the missing ones are built."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.cluster import current_cluster
from pipeline.records import (
    CoefficientRecord,
    ComparisonRecord,
    CostRatioRecord,
    CostRecord,
    PredictionRecord,
    SimilarityRecord,
    SoupRecord,
    VariantRecord,
)
from pipeline.records.tables import read_table, write_table
from pipeline.registry import log_costs
from pipeline.soup_task import SoupRequest, measure_similarities, soup_key
from pipeline.stages.building import Built, built_soups, new_soups, soup_context, soup_request, whole_sweep
from pipeline.stages.context import Run
from pipeline.studies import (
    Variant,
    ablations,
    compare_methods,
    correct_on_test,
    cost_points,
    cost_ratios,
    eliminations,
    interpolations,
    with_gains,
)

logger = logging.getLogger(__name__)

# The number of pairs grows with the square of the ingredients.
_SIMILAR_INGREDIENTS = 100


def comparisons_stage(run: Run) -> None:
    """``comparisons.parquet``: every pair of methods on the test images."""
    soups = read_table(run.path("soups.parquet"), SoupRecord)
    correct = {row.method: _correct(run, f"predictions/{row.method}.parquet") for row in soups}
    write_table(run.path("comparisons.parquet"), compare_methods(correct), ComparisonRecord)


def cost_accuracy_stage(run: Run) -> None:
    """``cost_accuracy.parquet``, the metrics of its MLflow runs, and ``cost_ratios.parquet``."""
    settings = run.config.study.cost_accuracy
    orders = [None, *range(1, settings.orders + 1)]
    request = functools.partial(soup_request, run)
    points = cost_points(run.ingredients(), settings.methods, settings.step, orders, request)
    soups = _soups(run, {point.name: point.request for point in points})
    rows = [point.record(soups[point.name].record, soups[point.name].predictions) for point in points]
    correct = {path: _correct(run, path) for path in {str(row.predictions) for row in rows}}
    rows = with_gains(rows, correct)
    write_table(run.path("cost_accuracy.parquet"), rows, CostRecord)
    log_costs(run.sweep, rows)
    write_table(run.path("cost_ratios.parquet"), cost_ratios(rows, correct), CostRatioRecord)


def elimination_stage(run: Run) -> None:
    """``elimination.parquet``: soups without the best ingredients."""
    settings = run.config.study.elimination
    whole = _whole(run, settings.methods if settings.top else [])
    _variants(run, "elimination", eliminations(run.ingredients(), whole, settings.top))


def ablation_stage(run: Run) -> None:
    """``ablation.parquet``: soups with one setting changed."""
    values = run.config.study.ablation
    _variants(run, "ablation", ablations(_whole(run, list(values)), values))


def wise_ft_stage(run: Run) -> None:
    """``wise_ft.parquet``: between theta0 and the soups; ensembles have no weights and are left out."""
    settings = run.config.study.wise_ft
    coefficients = {}
    for method in settings.methods:
        table = run.path("coefficients", f"{method}.parquet")
        if run.record().theta0_sha256 is None:
            logger.info("study: wise-ft: left out: this run has no theta0; import the ingredients with --theta0")
            break
        if table.exists():
            coefficients[method] = read_table(table, CoefficientRecord)
        else:
            logger.info("study: wise-ft: left out: '%s' is an ensemble, which has no weights", method)
    whole = _whole(run, list(coefficients))
    _variants(run, "wise_ft", interpolations(whole, coefficients, settings.alphas))


def similarity_stage(run: Run) -> None:
    """``similarity.parquet``: the cosines between the first ingredients, those of all where they are not too many."""
    rows = run.ingredients()
    finished = [row.trial_index for row in rows if row.status == "finished"][:_SIMILAR_INGREDIENTS]
    found = measure_similarities(soup_context(run, rows, None), finished, run.cluster.cpus)
    write_table(run.path("similarity.parquet"), found, SimilarityRecord)


RUN_STUDY = {
    "comparisons": comparisons_stage,
    "cost-accuracy": cost_accuracy_stage,
    "elimination": elimination_stage,
    "ablation": ablation_stage,
    "wise-ft": wise_ft_stage,
    "similarity": similarity_stage,
}


def _whole(run: Run, methods: Sequence[str]) -> dict[str, SoupRequest]:
    rows = run.ingredients()
    return {method: whole_sweep(run, rows, method) for method in methods}


def _correct(run: Run, predictions: str) -> NDArray[np.bool_]:
    return correct_on_test(read_table(run.path(predictions), PredictionRecord))


def _variants(run: Run, table: str, variants: Sequence[Variant]) -> None:
    soups = _soups(run, {variant.name: variant.request for variant in variants})
    rows = [variant.record(soups[variant.name].record, soups[variant.name].predictions) for variant in variants]
    write_table(run.path(f"{table}.parquet"), rows, VariantRecord)


def _soups(run: Run, requests: Mapping[str, SoupRequest]) -> dict[str, Built]:
    """All soups of a study by name; the missing ones are built, as many side by side as there are GPUs."""
    context = soup_context(run, run.ingredients(), None)
    keys = {name: soup_key(context, request) for name, request in requests.items()}
    soups = {keys[name]: built for name, built in built_soups(run, context, requests).items()}
    missing = {key: name for name, key in keys.items() if key not in soups}
    wanted = {name: requests[name] for name in missing.values()}
    new = new_soups(run, context, wanted, tasks=max(current_cluster().gpus, 1))
    for done, (name, _, built) in enumerate(new, start=1):
        soups[keys[name]] = built
        accuracy = 100 * built.record.val_accuracy
        logger.info("study: %s: validation %.2f%%, %d of %d", name, accuracy, done, len(wanted))
    return {name: soups[key] for name, key in keys.items()}
