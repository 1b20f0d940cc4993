"""``python -m pipeline search``: the sweep alone, or the list of its trials."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.commands.common import guarded, known_names
from pipeline.commands.run import run_stages
from pipeline.config import Config, load_config

if TYPE_CHECKING:
    from pipeline.search.sampling import Trial

logger = logging.getLogger(__name__)

HELP: dict[str, Any] = {
    "description": "Run the search stage, as `run --stages search`. With --dry-run, print the trials that it would "
    "run, and what can be said of data and model beforehand.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument("--config", required=True, metavar="FILE", help="settings in YAML, as for `run`")
    parser.add_argument("--dry-run", action="store_true", help="print the trials and warnings, and do nothing")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings over the file's")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""

    def job() -> None:
        config = load_config(arguments.config, arguments.overrides, known_names)
        if arguments.dry_run:
            dry_run(config)
        else:
            run_stages(config, ["search"], fresh=False)

    return guarded(job)


def dry_run(config: Config) -> None:
    """Print the trials, and what can be known of data and model before anything is made. Raises PipelineError."""
    from pipeline.data import kind_of, split_sizes  # these are slow to import
    from pipeline.models import check_model
    from pipeline.search.advice import about_splits, about_trials, fit_batches, resolution
    from pipeline.search.sampling import sample_trials

    trials = sample_trials(config.search, config.seed, kind_of(config.data).meaningless)
    sizes = split_sizes(config.data, config.seed)
    print(trials_table(fit_batches(trials, sizes["train"])))
    print(f"data: {', '.join(f'{size} {name}' for name, size in sizes.items())}; {resolution(sizes)}")
    for warning in (
        *about_splits(sizes, kind_of(config.data).plural),
        *about_trials(trials, sizes["train"], config.model),
    ):
        logger.warning("%s", warning)
    if config.search.algorithm != "random":
        logger.info("what varies is drawn by search.algorithm %s as the sweep goes on", config.search.algorithm)
    check_model(config.model, config.data)


def trials_table(trials: Sequence[Trial]) -> str:
    """A line per trial with the hyperparameters in which trials differ; the others are named once, above."""
    rows = [trial.hyper.given for trial in trials]
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
