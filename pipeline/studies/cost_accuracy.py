"""Accuracy against fine-tuning cost (Fig. 2 of the MEHL-Soup paper)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from pipeline.records import CostRecord, IngredientRecord, SoupRecord, cumulative_gpu_hours
from pipeline.soup_task import SoupContext, SoupRequest, build_soups


def cost_accuracy(
    context: SoupContext,
    ingredients: Sequence[IngredientRecord],
    soups: Sequence[SoupRecord],
    methods: Sequence[str],
    step: int,
    cpus: int,
) -> Iterator[CostRecord]:
    """Points of the curve: ``methods`` over the first step, 2 x step, ..., all finished trials in search order.

    A soup of all trials that is among ``soups`` is not built again.
    """
    finished = [row.trial_index for row in ingredients if row.status == "finished"]
    sizes = [*range(step, len(finished), step), len(finished)]
    theta0 = int(context.include_initialization)  # an ingredient too, but no trial
    known = {row.method: row for row in soups if row.num_ingredients == len(finished) + theta0}
    requests = [
        SoupRequest(method, tuple(finished[:size]), cumulative_gpu_hours(ingredients, size))
        for size in sizes
        for method in methods
        if not (size == len(finished) and method in known)
    ]
    if requests:
        for result in build_soups(dataclasses.replace(context, register=False), requests, cpus):
            yield _point(result.record, theta0)
    yield from (_point(known[method], theta0) for method in methods if method in known)


def _point(row: SoupRecord, theta0: int) -> CostRecord:
    return CostRecord(
        method=row.method,
        num_ingredients=row.num_ingredients - theta0,
        gpu_hours=row.gpu_hours,
        val_accuracy=row.val_accuracy,
        select_accuracy=row.select_accuracy,
        test_accuracy=row.test_accuracy,
    )
