"""The report stage."""

from __future__ import annotations

from pipeline.records import CPU_CORE_HOURS, SCORES, RecordedRuns, RunResults, cost_unit, costs
from pipeline.records.folder import RunFolder, read_results, update_run
from pipeline.registry import Sweep, describe, finish_sweep, recorded_runs
from pipeline.report import below_start, champion_of, headline, methods_table, write_report
from pipeline.stages.context import Run, method_labels
from pipeline.studies import study_tables


def report_stage(run: Run) -> None:
    """``report.html`` and the figures, also logged to the sweep's MLflow run."""
    update_run(run.folder, **run.config.report.model_dump(), labels=method_labels())
    make_report(run.sweep, run.folder, recorded_runs(run.sweep))


def make_report(sweep: Sweep, folder: RunFolder, recorded: RecordedRuns | None) -> None:
    """Write page and figures, whose rows lead to the runs ``recorded``, and keep them with the sweep's MLflow run."""
    update_run(folder, recorded=recorded)
    results = read_results(folder.root, study_tables())
    write_report(folder.root, results)
    _log_report(sweep, folder, results)


def _log_report(sweep: Sweep, folder: RunFolder, results: RunResults) -> None:
    """Keep page, figures and tables with the sweep's MLflow run, with what came out."""
    record = results.run
    files = (folder.report, *folder.figures.iterdir(), folder.run, *folder.root.glob("*.parquet"))
    describe(sweep, headline(results), methods_table(record, results.soups, results.ingredients))
    tags = {"champion": record.champion or "", "seed": str(record.seed)}
    champion = champion_of(record, results.soups)
    metrics: dict[str, float | None] = {}  # MLflow shows them in this order
    if champion is not None:
        tags["champion_below_theta0"] = below_start(record, champion) or "no"
        metrics |= {sweep.metric(name): value for name, value in champion.scores.items() if name in SCORES}
        metrics |= {key: getattr(champion, key) for key in ("test_accuracy", "select_accuracy", "val_accuracy")}
    hours, unit = costs(results.ingredients), cost_unit(results.ingredients)
    metrics |= {"gpu_hours": hours.pop(unit, 0.0)}
    metrics |= {"cpu_core_hours": hours.get(CPU_CORE_HOURS)}  # where some trials had a GPU and others none
    metrics |= {f"theta0_{sweep.metric(name)}": value for name, value in record.theta0_figures.items()}
    finish_sweep(sweep, files, tags, metrics)
