"""``python -m pipeline search``: the sweep alone, or the list of its trials."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.commands.common import guarded, known_names
from pipeline.commands.run import run_stages
from pipeline.config import load_config

if TYPE_CHECKING:
    from pipeline.search.sampling import Trial

HELP: dict[str, Any] = {
    "description": "Run the search stage, as `run --stages search`. With --dry-run, print the trials that it would "
    "run.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--config", required=True, metavar="FILE", help="settings in YAML, as for `run`")
    parser.add_argument("--dry-run", action="store_true", help="print the list of trials and do nothing")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the file's")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""

    def job() -> None:
        from pipeline.search.sampling import sample_trials  # slow to import

        config = load_config(arguments.config, arguments.overrides, known_names)
        if arguments.dry_run:
            print(trials_table(sample_trials(config.search, config.seed)))
        else:
            run_stages(config, ["search"], fresh=False)

    return guarded(job)


def trials_table(trials: Sequence[Trial]) -> str:
    """A line per trial with the hyperparameters in which trials differ; the others are named once, above."""
    rows = [trial.hyper.model_dump() for trial in trials]
    fixed = [name for name in rows[0] if len({row[name] for row in rows}) == 1]
    differing = [name for name in rows[0] if name not in fixed]
    table = [["trial", *differing]]
    table += [
        [str(trial.index), *(_cell(row[name]) for name in differing)] for trial, row in zip(trials, rows, strict=True)
    ]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in table]
    same = ", ".join(f"{name} {_cell(rows[0][name])}" for name in fixed)
    return "\n".join([f"{len(trials)} trials, all with {same}" if same else f"{len(trials)} trials", *lines])


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
