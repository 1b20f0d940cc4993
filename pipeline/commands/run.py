"""``python pipeline/run.py`` and ``python -m pipeline run``: the main job, from data to report."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
import shutil
from collections.abc import Sequence
from typing import Any

from pipeline.commands.common import format_settings, guarded, known_names
from pipeline.config import Config, load_config, nearest
from pipeline.errors import ConfigError, RegistryError, quoted
from pipeline.records import IngredientRecord, SoupRecord
from pipeline.records.folder import RunFolder, read_run
from pipeline.records.tables import read_table
from pipeline.report import methods_table
from pipeline.report.links import ui_command
from pipeline.stages.state import (
    all_stages,
    fingerprints,
    is_done,
    is_imported,
    left_out,
    locked_output,
    open_state,
    read_state,
)
from pipeline.studies import STUDIES

logger = logging.getLogger("pipeline")

HELP: dict[str, Any] = {
    "description": """\
Fine-tune a sweep with Ray Tune, build soups of its checkpoints, and report accuracy against cost.

The same command again goes on where it stopped and does only what is left to do. With more trials the
sweep is extended; with other settings for soups or studies only those stages run again.""",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
}
_EPILOG = """\
examples:
  python pipeline/run.py --config configs/digits.yaml
  python pipeline/run.py --config configs/digits.yaml search.num_trials=32 output=runs/larger
  python pipeline/run.py --config configs/digits.yaml --stages soup,study,report 'soup.methods=[greedy, mehl-plus]'
  ray job submit --working-dir . -- python pipeline/run.py --config configs/digits.yaml

exit status:
  0    all is done
  2    a mistake in the command, the settings or what they name: standard error says which, and what to do
  130  stopped by Ctrl-C; the same command goes on from there

settings, each with its default in brackets; values on the command line are YAML:
"""


def run_stages(config: Config, stages: Sequence[str], *, fresh: bool) -> None:
    """Do those of ``stages`` that are not done yet, in the order of `all_stages`, and tell what came out.

    Raises PipelineError.
    """
    logger.info("run %s: output in %s", config.name, config.output)
    if not fresh and is_done(config, stages):
        _restore_done(config)
    if fresh or not is_done(config, stages):
        with locked_output(config):
            _do_missing(config, stages, fresh=fresh)
    else:
        logger.info("everything is done already (%s); --fresh starts over", ", ".join(stages))
    _tell(config)


def _do_missing(config: Config, stages: Sequence[str], *, fresh: bool) -> None:
    # Imported only now: a run that is done already says so without waiting for Ray.
    from pipeline.registry import connect
    from pipeline.stages.restoring import restore
    from pipeline.stages.running import run_pending

    connect(str(config.registry.tracking_uri))
    if fresh and is_imported(config):
        raise ConfigError(
            f"--fresh: the ingredients of {config.output} were imported, and a sweep would start in their place; "
            "give `python -m pipeline import --fresh` or another `output`"
        )
    state, moved = open_state(config, fresh=fresh)
    if moved is not None:
        logger.info("the earlier run is kept in %s", moved)
    left_out(config, state)  # names that there are not are told before anything is done
    restore(config, state)
    order, wanted = all_stages(), fingerprints(config)
    todo = [stage for stage in order if stage in stages and state.done.get(stage) != wanted[stage]]
    if "report" in stages and "report" not in todo:  # it tells of all stages
        todo.append("report")
    for stage in order[: order.index(todo[0])] if todo else ():
        if stage in ("search", "soup") and state.done.get(stage) != wanted[stage]:
            raise ConfigError(f"--stages: '{todo[0]}' needs '{stage}', which is not done; add it")
    run_pending(config, state, todo, wanted)


def _restore_done(config: Config) -> None:
    """Make what people changed by hand in MLflow as the finished run recorded it, where that can be done now."""
    from pipeline.registry import connect
    from pipeline.stages.restoring import restore

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_output(config))
            connect(str(config.registry.tracking_uri))
        except (ConfigError, RegistryError) as error:
            logger.info("whether MLflow still has what the run recorded was not looked at: %s", error)
            return
        state = read_state(config)
        if state is not None:
            restore(config, state)


def _tell(config: Config) -> None:
    """The table of methods, and what to do next: read the report, compare in MLflow, use the champion."""
    folder, uri = RunFolder(config.output), str(config.registry.tracking_uri)
    if folder.soups.exists():
        soups, rows = read_table(folder.soups, SoupRecord), read_table(folder.ingredients, IngredientRecord)
        print(f"\n{methods_table(read_run(folder), soups, rows)}\n")
    if folder.report.exists():
        print(f"Read:    {folder.report}")
    print(f"Compare: {ui_command(uri) if uri.startswith('sqlite:') else uri}   (there: Experiments, {config.name})")
    if folder.soups.exists():
        name = shlex.quote(config.name)
        print(f"Use:     python -m pipeline export {name} --out {name}-exported --tracking-uri {shlex.quote(uri)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command, the same however it is called."""
    parser.add_argument("--config", required=True, metavar="FILE", help="settings in YAML; configs/ has some")
    parser.add_argument(
        "--stages",
        default="search,soup,study,report",
        help=f"which of %(default)s to do (default: all); study stands for {', '.join(STUDIES)}",
    )
    parser.add_argument("--fresh", action="store_true", help="start over; the earlier run is moved aside, not deleted")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings over the file's: search.num_trials=32"
    )
    parser.epilog = _EPILOG + format_settings(min(max(shutil.get_terminal_size().columns, 80), 120))
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status of `guarded`."""

    def job() -> None:
        config = load_config(arguments.config, arguments.overrides, known_names)  # plug-ins may bring studies
        names = [name.strip() for name in arguments.stages.split(",")]
        valid = (*all_stages(), "study")
        if unknown := [name for name in names if name not in valid]:
            raise ConfigError(f"--stages: unknown stage {quoted(unknown[0])}; {nearest(unknown[0], valid)}")
        stages = [stage for stage in all_stages() if stage in names or (stage in STUDIES and "study" in names)]
        run_stages(config, stages, fresh=arguments.fresh)

    return guarded(job)
