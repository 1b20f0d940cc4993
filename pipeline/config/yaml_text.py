"""YAML that means what it looks like.

PyYAML reads YAML 1.1, where `012` is ten, `1:30` is ninety, `2024-01-01` no text and `1e-4` no number; and of a key
that stands twice it takes the last. Here `1e-4` is a number, and the others are errors with their line; so is what no
settings need: dates, tags, control characters, and a text that is large, deep, or grows as its aliases are written out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pipeline.errors import LONGEST_QUOTE, ConfigError, listed, quoted, shortened

LARGEST_TEXT = 2**20  # characters: the names of ImageNet-21k take half of it, PyYAML some seconds
DEEPEST = 20  # groups within groups; our settings have six
_MOST_VALUES = 200_000  # with aliases written out
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_KINDS = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # but tabs and ends of lines are text


class _Loader(yaml.SafeLoader):
    """PyYAML's, and powers of ten without a dot, which are text to it. Raises YAMLError for what is too deep."""

    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """PyYAML calls itself for what is within."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} groups within each other")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    """PyYAML's, which puts text in quotes that `_Loader` takes for a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        f"{_TAG}float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
    )


@dataclass(frozen=True)
class Place:
    """Where a value stands (``config.yaml:7``), and what is written there if it is a plain word or number."""

    where: str
    text: str | None
    value: Any


ValuePath: TypeAlias = tuple[str | int, ...]  # keys and positions from the outermost in, as in pydantic's ``loc``


def read_yaml(text: str, where: Callable[[int], str]) -> tuple[Any, dict[ValuePath, Place]]:
    """The value that ``text`` stands for, and where each part of it stands.

    ``where`` names a line, counted from 1. Raises ConfigError listing what is written otherwise than it looks, and
    YAMLError for what is no YAML or too large.
    """
    if len(text) > LARGEST_TEXT:
        raise yaml.YAMLError(f"more than {LARGEST_TEXT} characters")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        walk = _Walk(loader, where, {}, [])
        walk.visit(node, (), node, frozenset())
        if walk.problems:
            raise ConfigError(listed(walk.problems))
        return loader.construct_document(node), walk.places
    finally:
        loader.dispose()


def plain_yaml(text: str) -> Any:
    """The value that ``text``, written by `dump_yaml`, stands for. Raises YAMLError and ConfigError."""
    return read_yaml(text, lambda line: f"line {line}")[0]


def dump_yaml(value: Any) -> str:
    """``value`` as text that `read_yaml` reads back."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def meaning(value: Any) -> str:
    """What YAML took a word for."""
    match value:
        case bool():
            return f"the truth value {str(value).lower()}"
        case None:
            return "no value"
        case _:
            return f"the number {quoted(value)}"


@dataclass
class _Walk:
    """A walk over the nodes of a text: what stands where, and what is written otherwise than it looks."""

    loader: _Loader
    where: Callable[[int], str]
    places: dict[ValuePath, Place]
    problems: list[str]
    visited: int = 0

    def visit(self, node: Node, path: ValuePath, named_at: Node, above: frozenset[int]) -> None:
        """``named_at`` is the key whose value ``node`` is, ``above`` the ids of the nodes that it is in."""
        if id(node) in above:
            raise ConfigError(f"{self._where(named_at)}: an alias stands for something that it is in; write it out")
        above |= {id(node)}
        self.visited += 1
        if self.visited > _MOST_VALUES or len(path) > DEEPEST:
            raise ConfigError(
                f"{self._where(named_at)}: with its aliases written out this has more than {_MOST_VALUES} values, or "
                f"more than {DEEPEST} groups within each other; write down what is needed"
            )
        if node.tag not in _KINDS:
            self.problems.append(self._odd_kind(node))
        elif isinstance(node, ScalarNode):
            plain = node.style is None
            value = self._scalar(node)
            self.places[path] = Place(self._where(node), node.value if plain else None, value if plain else None)
            if plain:
                self.problems += self._misread(node, value)
        else:
            self.places[path] = Place(self._where(named_at), None, None)
            if isinstance(node, SequenceNode):
                for number, part in enumerate(node.value):
                    self.visit(part, (*path, number), part, above)
            elif isinstance(node, MappingNode):
                self._visit_mapping(node, path, above)

    def _visit_mapping(self, node: MappingNode, path: ValuePath, above: frozenset[int]) -> None:
        seen: dict[Hashable, Node] = {}
        # What is merged in (`<<: *defaults`) first: keys of one's own come before it.
        for key, value in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
            if key.tag == _MERGE:
                for merged in value.value if isinstance(value, SequenceNode) else [value]:
                    self.visit(merged, path, key, above)
                continue
            if not isinstance(key, ScalarNode):
                self.problems.append(f"{self._where(key)}: a key must be a word")
                continue
            if key.value in seen:
                self.problems.append(
                    f"{self._where(key)}: key {quoted(key.value)} stands twice, first in line "
                    f"{seen[key.value].start_mark.line + 1}; remove one"
                )
            seen[key.value] = key
            name = self._scalar(key)
            if key.tag not in _KINDS:
                self.problems.append(self._odd_kind(key))
            elif key.tag != f"{_TAG}str":
                text = shortened(key.value, LONGEST_QUOTE)
                self.problems.append(f"{self._where(key)}: key `{text}` is read as {meaning(name)}; put it in quotes")
            self.visit(value, (*path, key.value), key, above)

    def _scalar(self, node: ScalarNode) -> Any:
        """The value of a word or number; None, with a problem noted, of what settings cannot have."""
        if _UNPRINTABLE.search(node.value):
            text = quoted(node.value)
            self.problems.append(f"{self._where(node)}: {text} has letters that cannot be printed; remove them")
        elif node.tag in _KINDS:
            try:
                return self.loader.construct_object(node)
            except (ValueError, LookupError, ArithmeticError):  # a tag that does not fit, more digits than Python reads
                kind = node.tag.removeprefix(_TAG)
                self.problems.append(f"{self._where(node)}: {quoted(node.value)} cannot be read as {kind}")
        return None

    def _odd_kind(self, node: Node) -> str:
        if node.tag == f"{_TAG}timestamp":  # which is not made into one: there may be no such date
            text = shortened(node.value, LONGEST_QUOTE)
            return f"{self._where(node)}: `{text}` is read as a date; put it in quotes: '{text}'"
        kind = quoted(node.tag.removeprefix(_TAG))
        return f"{self._where(node)}: is of the kind {kind}, which no setting takes; put it in quotes if text is meant"

    def _misread(self, node: ScalarNode, value: Any) -> Iterator[str]:
        text = shortened(node.value, LONGEST_QUOTE)
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and ":" in text:
            yield (
                f"{self._where(node)}: `{text}` is read as the number {value}, of digits to the base of 60; "
                f"write the number, or put it in quotes: '{text}'"
            )
        elif node.tag == f"{_TAG}int" and re.fullmatch(r"[-+]?0[0-7_]+", text) and int(text) != value:
            yield (
                f"{self._where(node)}: `{text}` is read as the octal number {value}; "
                f"write {int(text)} or {value}, or put it in quotes: '{text}'"
            )

    def _where(self, node: Node) -> str:
        return self.where(node.start_mark.line + 1)
