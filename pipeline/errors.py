"""The error tree: every mistake that a user can make ends in one of these.

A message is one line per problem and says what was wrong, where, and what to do. The command line prints it without a
traceback and exits with status 2. What it quotes of a user's value it quotes by `quoted`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LONGEST_QUOTE = 100  # characters of a value: a line, with what is said of it
_MOST_LISTED = 50


def quoted(value: Any) -> str:
    """``value`` as a message shows it: in a line, shortened, with what cannot be printed as Python escapes it."""
    match value:
        case bool():
            return f"the truth value {str(value).lower()}"
        case None:
            return "no value"
        case str():
            return shortened(repr(shortened(value, LONGEST_QUOTE)), LONGEST_QUOTE)
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no number of thousands of digits
        return f"a {type(value).__name__} too large to show"
    return shortened(text, LONGEST_QUOTE)


def shortened(text: str, longest: int) -> str:
    """``text``, without its middle if it has more than ``longest`` characters."""
    head = 2 * longest // 3
    return text if len(text) <= longest else f"{text[:head]}...{text[len(text) + head + 3 - longest :]}"


def printable(text: str) -> str:
    """``text`` with what would move a terminal's cursor, ends of lines too, as Python escapes it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def first_line(error: BaseException) -> str:
    """What an error of others says, without the lines that follow."""
    return str(error).strip().partition("\n")[0]


def first_sentence(error: BaseException) -> str:
    """As `first_line`, of errors whose lines are broken anywhere: at most 200 letters, or the name of its class."""
    return (" ".join(str(error).split()).partition(". ")[0] or type(error).__name__)[:200]


def listed(problems: Sequence[str]) -> str:
    """``problems``, a line each; of very many the first."""
    more = [f"and {len(problems) - _MOST_LISTED} more"] if len(problems) > _MOST_LISTED else []
    return "\n  ".join([*problems[:_MOST_LISTED], *more])


class PipelineError(Exception):
    """Base of every error that the command line shows without a traceback."""


class ConfigError(PipelineError):
    """A setting that cannot be used; the message lists all problems found."""


class DataError(PipelineError):
    """Images, labels or splits that cannot be used."""


class ModelError(PipelineError):
    """A backbone, head or weight file that cannot be built or read."""


class SearchError(PipelineError):
    """A sweep that cannot start or that left nothing to go on with."""


class IngredientError(PipelineError):
    """An ingredient that cannot be read or does not fit the others; names file, tensor and both values."""


class SoupError(PipelineError):
    """A soup that cannot be built with the given ingredients or settings."""


class RegistryError(PipelineError):
    """The MLflow tracking server or an artifact in it cannot be used."""


class TrialRejected(PipelineError):
    """Fine-tuning ended without a usable ingredient (a loss that is not finite, say); never retried."""
