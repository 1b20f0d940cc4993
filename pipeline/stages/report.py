"""The report stage."""

from __future__ import annotations

from pipeline.data import read_table
from pipeline.records import ComparisonRecord, CostRecord, SoupRecord
from pipeline.registry import describe, finish_sweep
from pipeline.report import methods_table, write_report
from pipeline.stages.context import Run
from pipeline.state import write_text


def report_stage(run: Run) -> None:
    """``report.html`` and the figures, also logged to the sweep's MLflow run."""
    rows = run.ingredients()
    record = run.record().model_copy(update=run.config.report.model_dump())
    write_text(run.path("run.json"), record.model_dump_json(indent=1))
    soups = read_table(run.path("soups.parquet"), SoupRecord)
    curve = run.path("cost_accuracy.parquet")
    costs = read_table(curve, CostRecord) if curve.exists() else []
    tests = run.path("comparisons.parquet")
    comparisons = read_table(tests, ComparisonRecord) if tests.exists() else []
    files = write_report(run.config.output, record, rows, soups, costs, comparisons)
    records = (run.path("run.json"), *run.path().glob("*.parquet"))
    describe(run.sweep, methods_table(soups, rows, record.champion))
    tags = {"champion": record.champion or "", "seed": str(record.seed)}
    metrics: dict[str, float | None] = {"gpu_hours": sum(row.gpu_hours for row in rows)}
    for soup in soups:
        if soup.method == record.champion:
            metrics |= {key: getattr(soup, key) for key in ("val_accuracy", "select_accuracy", "test_accuracy")}
    finish_sweep(run.sweep, [*files, *records], tags, metrics)
