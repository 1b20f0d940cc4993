"""The report stage."""

from __future__ import annotations

from pipeline.records import CPU_CORE_HOURS, SCORES, RunResults, cost_unit, costs
from pipeline.records.folder import RunFolder, read_results, update_run
from pipeline.registry import Sweep, describe, finish_sweep, recorded_runs
from pipeline.report import below_start, methods_table, write_report
from pipeline.stages.context import Run, method_labels
from pipeline.studies import study_tables


def report_stage(run: Run) -> None:
    """``report.html`` and the figures, also logged to the sweep's MLflow run."""
    given = run.config.report.model_dump()
    update_run(run.folder, **given, labels=method_labels(), recorded=recorded_runs(run.sweep))
    results = read_results(run.folder.root, study_tables())
    write_report(run.folder.root, results)
    log_report(run.sweep, run.folder, results)


def log_report(sweep: Sweep, folder: RunFolder, results: RunResults) -> None:
    """Keep page, figures and tables with the sweep's MLflow run, with what came out."""
    record = results.run
    files = (folder.report, *folder.figures.iterdir(), folder.run, *folder.root.glob("*.parquet"))
    describe(sweep, methods_table(record, results.soups, results.ingredients))
    tags = {"champion": record.champion or "", "seed": str(record.seed)}
    hours, unit = costs(results.ingredients), cost_unit(results.ingredients)
    metrics: dict[str, float | None] = {"gpu_hours": hours.pop(unit, 0.0)}
    metrics |= {"cpu_core_hours": hours.get(CPU_CORE_HOURS)}  # where some trials had a GPU and others none
    metrics |= {f"theta0_{sweep.metric(name)}": value for name, value in record.theta0_figures.items()}
    for soup in results.soups:
        if soup.method == record.champion:
            tags["champion_below_theta0"] = below_start(record, soup) or "no"
            metrics |= {key: getattr(soup, key) for key in ("val_accuracy", "select_accuracy", "test_accuracy")}
            metrics |= {sweep.metric(name): value for name, value in soup.scores.items() if name in SCORES}
    finish_sweep(sweep, files, tags, metrics)
