"""Whether what was measured has the size that was asked for: a benchmark that finds another one records nothing."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def positive(text: str) -> int:
    """What argparse makes of a number of things."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def refuse_parts(parser: argparse.ArgumentParser, options: argparse.Namespace, whole: str, part: str) -> None:
    """End with an error where an option, or one of its numbers, is no multiple of another: the last part is smaller."""
    size, numbers = getattr(options, part), getattr(options, whole)
    for number in numbers if isinstance(numbers, list) else [numbers]:
        if number % size:
            parser.error(f"--{whole} {number} is no multiple of --{part} {size}: the last one would be smaller")


def same(what: str, found: object, wanted: object) -> None:
    """End the program where they differ."""
    if found != wanted:
        sys.exit(f"nothing is recorded: {what}: {found}, but {wanted} was asked for")


@contextmanager
def batch_sizes(model: nn.Module) -> Iterator[set[int]]:
    """The numbers of images that the model is called with meanwhile, parts of batches too."""
    seen: set[int] = set()
    hook = model.register_forward_pre_hook(lambda _, arguments: seen.add(len(arguments[0])))
    try:
        yield seen
    finally:
        hook.remove()
