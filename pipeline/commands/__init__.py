"""One file per command, imported when the command is asked for: `--help` answers without torch, Ray and MLflow."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from pipeline import __version__

# By the name that is typed: the module, which has HELP (what argparse says of the command) and `add_arguments`, and
# what the list of commands says.
COMMANDS = {
    "run": ("run", "run a sweep, build its soups, study its cost, write the report"),
    "search": ("search", "run the sweep alone, or print its trials"),
    "soup": ("soup", "make a soup of the checkpoints in a folder"),
    "import": ("import_", "make checkpoints that are there already the ingredients of a run"),
    "verify": ("verify", "check a run's ingredients and soups in the registry"),
    "export": ("export", "write a soup so that open_clip, torchvision or timm load it"),
    "report": ("report", "one page on one or several runs"),
    "dashboard": ("dashboard", "watch the sweeps of a registry in the browser"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the command line's) name; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        prog="soup-pipeline", description="Turn a fine-tuning sweep into one better model."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module_name, summary) in COMMANDS.items():
        if given[:1] == [name]:
            module = importlib.import_module(f"pipeline.commands.{module_name}")
            module.add_arguments(commands.add_parser(name, help=summary, **module.HELP))
        else:
            commands.add_parser(name, help=summary)
    parsed = _parse(parser, given)
    status: int = parsed.execute(parsed)
    return status


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """As ``parser.parse_args``, which would take KEY=VALUE in one place among the options only."""
    parsed, rest = parser.parse_known_args(arguments)
    takes_overrides = hasattr(parsed, "overrides")
    known = [argument for argument in rest if takes_overrides and "=" in argument and not argument.startswith("-")]
    if strange := [argument for argument in rest if argument not in known]:
        parser.error(f"unrecognized arguments: {' '.join(strange)}")
    if takes_overrides:
        parsed.overrides += known
    return parsed
