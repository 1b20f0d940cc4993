"""``python -m pipeline``: one command per job that the pipeline can do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline import (
    __version__,
    export_command,
    import_command,
    report_command,
    run,
    search_command,
    soup_command,
    verify_command,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ``arguments`` (default: the command line's) name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="soup-pipeline", description="Turn a fine-tuning sweep into one better model."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run.add_arguments(commands.add_parser("run", **run.HELP))
    search_command.add_arguments(commands.add_parser("search", **search_command.HELP))
    soup_command.add_arguments(commands.add_parser("soup", **soup_command.HELP))
    import_command.add_arguments(commands.add_parser("import", **import_command.HELP))
    verify_command.add_arguments(commands.add_parser("verify", **verify_command.HELP))
    export_command.add_arguments(commands.add_parser("export", **export_command.HELP))
    report_command.add_arguments(commands.add_parser("report", **report_command.HELP))
    parsed = run.parse(parser, arguments)
    status: int = parsed.execute(parsed)
    return status


if __name__ == "__main__":
    sys.exit(main())
