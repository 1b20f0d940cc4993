"""All records of a run in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import DataError
from pipeline.records.tables import read_table
from pipeline.records.types import (
    CoefficientRecord,
    ComparisonRecord,
    CostRatioRecord,
    CostRecord,
    IngredientRecord,
    Record,
    RunRecord,
    RunResults,
    SimilarityRecord,
    SoupRecord,
    VariantRecord,
)

_STUDIES: dict[str, type[Record]] = {
    "cost_accuracy": CostRecord,
    "cost_ratios": CostRatioRecord,
    "comparisons": ComparisonRecord,
    "elimination": VariantRecord,
    "ablation": VariantRecord,
    "wise_ft": VariantRecord,
    "similarity": SimilarityRecord,
}
_TABLES: dict[str, type[Record]] = {"ingredients": IngredientRecord, "soups": SoupRecord, **_STUDIES}


def read_results(folder: Path) -> RunResults:
    """The records in the folder of a run. Raises DataError for a folder that holds none, or a damaged table."""
    try:
        run = RunRecord.model_validate_json((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise DataError(f"{folder}: holds no finished run (run.json cannot be read); give the folder of one") from error
    tables: dict[str, Any] = {
        name: read_table(path, kind) for name, kind in _TABLES.items() if (path := folder / f"{name}.parquet").exists()
    }
    # Of the methods of now alone: tables of methods that are built no more are kept.
    coefficients = {
        soup.method: read_table(path, CoefficientRecord)
        for soup in tables.get("soups", [])
        if (path := folder / "coefficients" / f"{soup.method}.parquet").exists()
    }
    return RunResults(run=run, coefficients=coefficients, **tables)


def remove_studies(folder: Path, stage: str) -> None:
    """Remove the tables of the studies that depend on ``stage``; the soups that they told of are kept."""
    for name in _STUDIES:
        if stage == "search" or name != "similarity":
            (folder / f"{name}.parquet").unlink(missing_ok=True)
