"""The report stage."""

from __future__ import annotations

from pipeline.records.folder import read_results, update_run
from pipeline.registry import describe, finish_sweep
from pipeline.report import methods_table, write_report
from pipeline.stages.context import Run, method_labels
from pipeline.studies import study_tables


def report_stage(run: Run) -> None:
    """``report.html`` and the figures, also logged to the sweep's MLflow run."""
    record = update_run(run.folder, **run.config.report.model_dump(), labels=method_labels())
    results = read_results(run.folder.root, study_tables())
    files = write_report(run.folder.root, results)
    records = (run.folder.run, *run.folder.root.glob("*.parquet"))
    describe(run.sweep, methods_table(results.soups, results.ingredients, record.champion))
    tags = {"champion": record.champion or "", "seed": str(record.seed)}
    metrics: dict[str, float | None] = {"gpu_hours": sum(row.gpu_hours for row in results.ingredients)}
    for soup in results.soups:
        if soup.method == record.champion:
            metrics |= {key: getattr(soup, key) for key in ("val_accuracy", "select_accuracy", "test_accuracy")}
    finish_sweep(run.sweep, [*files, *records], tags, metrics)
