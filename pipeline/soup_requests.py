"""What a soup, or a measurement of ingredients, is made of; stages and studies ask for it, `soup_task` answers."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from pipeline.metrics import ACCURACY
from pipeline.records import Precision


class RequestedIngredient(NamedTuple):
    """A finished trial, and the checksum of its weights."""

    trial_index: int
    sha256: str | None


@dataclass(frozen=True)
class RecordedSoup:
    """The coefficients of a soup that was built before, a row per ingredient and a column per layer.

    The order of the rows is that of the request's ingredients, theta0 last if it is an ingredient.
    """

    layers: tuple[str, ...]
    coefficients: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class SoupRequest:
    """A soup to build: ``method`` over ``ingredients``, whose sweep cost ``gpu_hours``.

    ``settings`` are those of the method, all of them, ``settings_of`` by name those of the methods that it starts from,
    where they are not the defaults. ``metric`` is the name of what decides between soups. ``precision`` is the
    arithmetic that it is measured in and learned in, unless ``settings`` have another. ``shifts`` says by name where
    other test sets are that it is measured on. With ``recorded`` no soup is sought but the point ``settings["alpha"]``
    on the line from theta0 (0) through the recorded soup of the method (1).
    """

    method: str
    ingredients: tuple[RequestedIngredient, ...]
    gpu_hours: float
    settings: Mapping[str, Any]
    seed: int
    include_initialization: bool = False
    shifts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recorded: RecordedSoup | None = None
    settings_of: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    precision: Precision = "float32"
    metric: str = ACCURACY

    @property
    def trial_indices(self) -> tuple[int, ...]:
        """The trials whose weights are mixed."""
        return tuple(one.trial_index for one in self.ingredients)

    @property
    def key(self) -> str:
        """A hash of all that decides how the soup comes out; what its sweep cost does not."""
        parts: list[Any] = [
            self.method,
            self.settings,
            [one.sha256 for one in self.ingredients],
            self.include_initialization,
            self.seed,
        ]
        if self.recorded is not None:
            parts.append(dataclasses.asdict(self.recorded))
        if self.settings_of:
            parts.append({"settings_of": self.settings_of})
        if self.shifts:
            parts.append(dict(self.shifts))
        if self.precision != "float32":  # keys from before there was a choice stay the same
            parts.append({"precision": self.precision})
        if self.metric != ACCURACY:
            parts.append({"metric": self.metric})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def of(self, trial_indices: Collection[int]) -> SoupRequest:
        """The same of these trials alone."""
        chosen = tuple(one for one in self.ingredients if one.trial_index in trial_indices)
        return dataclasses.replace(self, ingredients=chosen)


@dataclass(frozen=True)
class SimilarityRequest:
    """The cosines of every pair of ``ingredients``."""

    ingredients: tuple[RequestedIngredient, ...]


Request: TypeAlias = SoupRequest | SimilarityRequest
