"""``python -m pipeline export``: a soup for use elsewhere."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from pipeline.commands.common import add_run_arguments, guarded_with_store, known_names, path_argument
from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.files import scratch

logger = logging.getLogger(__name__)

HELP: dict[str, Any] = {
    "description": "Write a soup of the latest sweep of a run as safetensors and configuration that the library of its "
    "network loads back, with the class names and the preprocessing (of texts: the tokenizer); with --program also as "
    "model.pt2 of torch.export, which runs without that library: images with values in [0, 1] in, or rows of tokens "
    "(int32, the ids and 1, 2**24 more in a second text, then zeros), logits out.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    add_run_arguments(parser)
    parser.add_argument("--soup", default="champion", help="a method of the run (default: the %(default)s)")
    parser.add_argument("--out", required=True, type=path_argument, metavar="DIR", help="a new folder")
    parser.add_argument("--program", action="store_true", help="write model.pt2 too")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    soup, out, program = arguments.soup, arguments.out, arguments.program
    return guarded_with_store(arguments, lambda uri: export(arguments.name, soup, out, uri, program=program))


def export(name: str, alias: str, out: Path, tracking_uri: str, *, program: bool) -> None:
    """Write the soup ``alias`` of the run ``name`` into the new folder ``out``, whole or not at all.

    Raises PipelineError.
    """
    from pipeline.metrics import METRICS
    from pipeline.models import build_classifier
    from pipeline.models.export import export_weights
    from pipeline.registry import fetch_description, fetch_settings, fetch_soup, find_soup, find_sweep
    from pipeline.weights import load_weights, read_weights  # slow to import

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out} is there already; give a new folder")
    sweep = find_sweep(tracking_uri, name)
    soup = find_soup(sweep, alias)
    description = fetch_description(soup)
    with scratch() as folder:
        config = load_config(fetch_settings(sweep, folder), [], known_names)
        model = build_classifier(config.model, len(description.class_names)).eval()
        load_weights(model, read_weights(fetch_soup(soup, folder)), source=f"soup '{soup.method}'")
        try:
            how = export_weights(model, description, out.absolute(), program=program)
        except OSError as error:
            raise ConfigError(f"--out: {out} cannot be written ({error.strerror or error})") from error
    logger.info(
        "wrote %s (version %d, test %s %.2f%%) to %s",
        soup.method,
        soup.version,
        METRICS[config.data.metric].label,
        100 * soup.figures.get("test_score", soup.figures["test_accuracy"]),
        out,
    )
    print(f"\n{how}")
