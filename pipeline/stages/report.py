"""The report stage."""

from __future__ import annotations

from pipeline.files import write_text
from pipeline.records.folder import read_results
from pipeline.registry import describe, finish_sweep
from pipeline.report import methods_table, write_report
from pipeline.stages.context import Run


def report_stage(run: Run) -> None:
    """``report.html`` and the figures, also logged to the sweep's MLflow run."""
    record = run.record().model_copy(update=run.config.report.model_dump())
    write_text(run.path("run.json"), record.model_dump_json(indent=1))
    results = read_results(run.path())
    files = write_report(run.path(), results)
    records = (run.path("run.json"), *run.path().glob("*.parquet"))
    describe(run.sweep, methods_table(results.soups, results.ingredients, record.champion))
    tags = {"champion": record.champion or "", "seed": str(record.seed)}
    metrics: dict[str, float | None] = {"gpu_hours": sum(row.gpu_hours for row in results.ingredients)}
    for soup in results.soups:
        if soup.method == record.champion:
            metrics |= {key: getattr(soup, key) for key in ("val_accuracy", "select_accuracy", "test_accuracy")}
    finish_sweep(run.sweep, [*files, *records], tags, metrics)
