"""What all commands share: the names that settings may take, quiet logs, and errors without tracebacks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from pipeline.config import Known
from pipeline.data.sources import SOURCES
from pipeline.errors import PipelineError
from pipeline.models.backbone import BACKBONES
from pipeline.search.spaces import SPACES
from pipeline.soups import METHODS


def known_names() -> Known:
    """The tables of names that `load_config` checks settings against."""
    return Known(
        sources={name: source.needs for name, source in SOURCES.items()},
        backbones=BACKBONES,
        spaces=SPACES,
        methods={name: method.defaults for name, method in METHODS.items()},
    )


def guarded(job: Callable[[], None]) -> int:
    """Run ``job`` with its progress on standard output; returns the exit status.

    0 when it is done, 2 with a message on standard error after a mistake of the user, 130 after Ctrl-C.
    """
    logging.basicConfig(format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stdout)
    logging.getLogger("pipeline").setLevel(logging.INFO)
    try:
        job()
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
