"""What all commands share: the names and the list of settings, quiet logs, errors without tracebacks."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline.config import SPACES, Config, Distribution, Known, Section, config_type, nested_section, ray_address
from pipeline.errors import LONGEST_QUOTE, PipelineError, RegistryError, first_line, printable, shortened
from pipeline.files import absolute_path, sqlite_path, sqlite_uri
from pipeline.studies import STUDIES

_DEFAULT_STORE = "runs/mlflow.db"
_LONGEST_LINE = 1500  # of a message: whatever a library says in it
# What may befall any file at any time, through no fault of settings or program.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)


def known_names() -> Known:
    """The tables of names that `load_config` checks settings against, as they are now."""
    from pipeline.data import KINDS, SOURCES  # these are slow to import, and `--help` does without
    from pipeline.finetune import TRAINERS
    from pipeline.metrics import METRICS
    from pipeline.models.backbone import BACKBONES
    from pipeline.soups import METHODS

    return Known(
        sources={name: (*KINDS[source.kind].needs, *source.needs) for name, source in SOURCES.items()},
        backbones=BACKBONES,
        spaces=SPACES,
        trainers={name: trainer.hyperparameters for name, trainer in TRAINERS.items()},
        methods={name: method.defaults for name, method in METHODS.items()},
        studies=STUDIES,
        metrics=METRICS,
        meaningless={name: KINDS[source.kind].meaningless for name, source in SOURCES.items()},
        own_spaces={name: space for name, source in SOURCES.items() if (space := KINDS[source.kind].space) is not None},
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """``NAME`` and ``--tracking-uri``, for commands that read a run from the registry."""
    parser.add_argument("name", metavar="NAME", help="the run's `name`, as in the registered model NAME-soup")
    add_store_argument(parser)


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """``--tracking-uri``, for commands that read a registry."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"where runs are recorded (default: $MLFLOW_TRACKING_URI, else {_DEFAULT_STORE})",
    )


def path_argument(text: str) -> Path:
    """What argparse makes of a path on the command line."""
    try:
        return absolute_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def guarded_with_store(arguments: argparse.Namespace, job: Callable[[str], None]) -> int:
    """As `guarded`, with the store that the command line or the environment names."""

    def with_store() -> None:
        from pipeline.registry import store_errors  # slow to import

        uri = store_of(arguments)
        with store_errors(uri):
            job(uri)

    return guarded(with_store)


def store_of(arguments: argparse.Namespace) -> str:
    """The store that the command line or the environment names; raises RegistryError where there is none."""
    if uri := arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI"):
        try:
            return str(uri) if (path := sqlite_path(uri)) is None else sqlite_uri(absolute_path(path))
        except ValueError as error:
            raise RegistryError(f"--tracking-uri: {error}") from error
    path = Path(_DEFAULT_STORE).absolute()
    if not path.exists():
        raise RegistryError(f"--tracking-uri: is not given, and there is no {path}")
    return sqlite_uri(path)


class _Lines(logging.Formatter):
    """Time and message; a warning says that it is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        if record.levelno >= logging.WARNING:
            record.message = f"warning: {record.message}"
        return super().formatMessage(record)


def guarded(job: Callable[[], None]) -> int:
    """Run ``job`` with its progress on standard output; returns the exit status.

    0 when it is done, 2 with a message on standard error after a mistake of the user, 130 after Ctrl-C or SIGTERM.
    """
    if ray_address() is None:
        # Read when Ray is imported: one of this machine alone then listens on loopback only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(_Lines("%(asctime)s  %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[lines])
    logging.getLogger("pipeline").setLevel(logging.INFO)
    try:
        job()
    except PipelineError as error:
        for line in f"error: {error}".split("\n"):
            print(shortened(printable(line), _LONGEST_LINE), file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"error: {where}{os.strerror(error.errno)}; what is done is kept, and the same command goes on once there "
            "is room and the disk works",
            file=sys.stderr,
        )
        return 2
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        print(
            f"error: a GPU is out of memory ({shortened(first_line(error), LONGEST_QUOTE)}); end what else runs on it "
            "and give the same command again: what is done is kept",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr, flush=True)
        if "pipeline.cluster" in sys.modules:
            from pipeline.cluster import leave_ray

            if not leave_ray():
                sys.stdout.flush()
                os._exit(130)
        return 130
    return 0


def _out_of_memory(error: RuntimeError) -> bool:
    if "torch" not in sys.modules:
        return False
    from pipeline.precision import is_out_of_memory  # imports torch, which `--help` does without

    return is_out_of_memory(error)


def describe_settings(section: type[Section] | None = None, prefix: str = "") -> Iterator[str]:
    """All settings of a section (default: of a run) as ``key [default]: description``, a line each."""
    for name, field in (section or config_type(STUDIES)).model_fields.items():
        nested = nested_section(field)
        if nested is Distribution:
            yield f"{prefix}{name}: {' '.join((field.description or '').split())}"
            yield from describe_settings(nested, f"{prefix}{name}.NAME.")
        elif nested is not None:
            yield from describe_settings(nested, f"{prefix}{name}.")
        else:
            default = "" if field.is_required() or field.default in (None, Path()) else f" [{_as_yaml(field.default)}]"
            yield f"{prefix}{name}{default}: {' '.join((field.description or '').split())}"


def format_settings(width: int) -> str:
    """The settings with their defaults in brackets, by section and in two columns, for the command line's help."""
    rows = []
    for line in describe_settings():
        head, _, description = line.partition(": ")
        key, _, default = head.partition(" ")
        rows.append((key, f"{description} {default}".rstrip()))
    column = max(len(key) for key, _ in rows) + 4
    lines, section = [], None
    for key, description in rows:
        top, _, below = key.partition(".")
        if below and top != section:
            section = top
            kind = Config.model_fields[top].annotation
            lines += ["", f"{top}: {(kind.__doc__ or '').strip()}"]
        lines += textwrap.wrap(
            description,
            width,
            initial_indent=f"  {key}".ljust(column),
            subsequent_indent=" " * column,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _as_yaml(value: Any) -> str:
    """As one would write it on the command line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n").removesuffix("\n...")
