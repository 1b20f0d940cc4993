"""Accuracy against fine-tuning cost (Fig. 2 of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.records import CostRecord, IngredientRecord, SoupRecord, cumulative_gpu_hours
from pipeline.soup_task import SoupRequest


def cost_requests(ingredients: Sequence[IngredientRecord], methods: Sequence[str], step: int) -> list[SoupRequest]:
    """The soups of the curve: ``methods`` over the first step, 2 x step, ..., all finished trials in search order."""
    finished = [row.trial_index for row in ingredients if row.status == "finished"]
    sizes = [*range(step, len(finished), step), len(finished)]
    return [
        SoupRequest(method, tuple(finished[:size]), cumulative_gpu_hours(ingredients, size))
        for size in sizes
        for method in methods
    ]


def cost_record(row: SoupRecord, request: SoupRequest) -> CostRecord:
    """The point of a built soup; theta0, where it is an ingredient too, is no trial and not counted."""
    return CostRecord(
        method=row.method,
        num_ingredients=len(request.trial_indices),
        gpu_hours=request.gpu_hours,
        val_accuracy=row.val_accuracy,
        select_accuracy=row.select_accuracy,
        test_accuracy=row.test_accuracy,
    )
