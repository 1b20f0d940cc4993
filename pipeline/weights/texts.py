"""Texts in weight files, which anybody may have written: names of tensors and of classes."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pipeline.errors import printable

_LONGEST_NAME = 500  # of a tensor; those of real networks have some 100 characters at most


def shown(text: str, longest: int = 60) -> str:
    """The beginning of ``text``, of ``longest`` characters, as a line of a message can have it."""
    plain = printable(text[:longest])
    return plain if len(text) <= longest else f"{plain}…"


def name_problem(name: str) -> str | None:
    """Why no tensor should have this name, and what to do; None for an ordinary one."""
    if len(name) > _LONGEST_NAME:
        return f"a tensor has a name of {len(name)} letters ('{shown(name)}'); rename it"
    return None if name.isprintable() else f"a tensor has control characters in its name ('{shown(name)}'); rename it"


def class_names_of(metadata: Mapping[str, str]) -> list[str] | None:
    """The names of the classes in label order: `class_names` as a list in JSON, or a line each.

    None where the header has none. Raises ValueError for text that is neither.
    """
    text = metadata.get("class_names")
    if text is None:
        return None
    if "\n" in text and not text.lstrip().startswith(("[", "{")):
        return text.split("\n")
    try:
        names = json.loads(text)
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("is no list of names in JSON")
    return names
