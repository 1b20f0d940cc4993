"""From a row of a table to its run in MLflow."""

from __future__ import annotations

import shlex

from pipeline.records import RunRecord
from pipeline.report.markup import Link


def method_link(run: RunRecord, method: str, text: str) -> Link:
    """A cell that leads to the run of a method's soup, where that has an address."""
    return _link(run, text, None if run.recorded is None else run.recorded.soups.get(method))


def trial_link(run: RunRecord, trial_index: int) -> Link:
    """A cell that leads to the run of a trial, where that has an address."""
    return _link(run, str(trial_index), None if run.recorded is None else run.recorded.trials.get(trial_index))


def how_to_open(run: RunRecord) -> str:
    """The command that shows the runs of methods and trials, where nothing leads to them; empty else."""
    recorded = run.recorded
    if recorded is None or recorded.page("") is not None:
        return ""
    return ui_command(recorded.tracking_uri)


def ui_command(tracking_uri: str) -> str:
    """The command that opens MLflow's UI on a store that no server shows."""
    return f"mlflow ui --backend-store-uri {shlex.quote(tracking_uri)}"


def _link(run: RunRecord, text: str, run_id: str | None) -> Link:
    return Link(text, run.recorded.page(run_id) if run.recorded is not None and run_id is not None else None)
