"""The sweeps that a page shows: what they are called there, how they are drawn, how sure their figures are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import scipy.stats  # noqa: F401  `interval` would import it when the first page is waiting

from pipeline.metrics import ACCURACY, METRICS
from pipeline.registry import Look, WatchedSweep
from pipeline.report.intervals import interval
from pipeline.report.styles import RUN_COLOURS, MethodStyle, style

Split: TypeAlias = Literal["select", "test"]
SPLITS: tuple[Split, ...] = ("select", "test")


class Shown(NamedTuple):
    """A sweep on the page; ``alone`` if there is no other. ``labels`` are those of the methods of all of them."""

    title: str
    colour: str
    look: Look
    labels: Mapping[str, str]
    alone: bool

    @property
    def metric(self) -> str:
        """What decides, by its name."""
        return self.look.sweep.origin.get("metric", ACCURACY)

    def look_of(self, method: str) -> MethodStyle:
        """How a method is drawn: in its own colour, among other sweeps in that of its sweep."""
        look = style(method, self.labels)
        return look if self.alone else look._replace(label=f"{self.title}: {look.label}", colour=self.colour)

    def bounds(self, score: float, split: Split) -> tuple[float, float] | None:
        """The 95 % interval of an accuracy on a split; None of another metric, or where the size is not known."""
        size = self.look.sweep.sizes.get(split)
        return interval(score, size) if size and self.metric == ACCURACY and 0 <= score <= 1 else None

    def all_bounds(self, scores: Sequence[float], split: Split) -> list[tuple[float, float]]:
        """The intervals of all ``scores``; none where one of them has none."""
        found = [bounds for score in scores if (bounds := self.bounds(score, split))]
        return found if len(found) == len(scores) else []


def titles(sweeps: Sequence[WatchedSweep]) -> dict[str, str]:
    """By id what sweeps are called: by their names, and their ids where names repeat."""
    names = [sweep.name for sweep in sweeps]
    return {
        sweep.sweep_id: sweep.name if names.count(sweep.name) == 1 else f"{sweep.name} {sweep.sweep_id}"
        for sweep in sweeps
    }


def shown(looks: Mapping[str, Look]) -> list[Shown]:
    """The sweeps of a page in the order given."""
    named = titles([look.sweep for look in looks.values()])
    labels = {method: label for look in looks.values() for method, label in look.labels.items()}
    return [
        Shown(named[sweep_id], RUN_COLOURS[number % len(RUN_COLOURS)], look, labels, len(looks) == 1)
        for number, (sweep_id, look) in enumerate(looks.items())
    ]


def metric_of(sweeps: Sequence[Shown]) -> str:
    """What decides, in words: of sweeps that do not agree, all that there is."""
    names = dict.fromkeys(sweep.metric for sweep in sweeps)  # one of a plug-in has no label here
    return " or ".join(METRICS[name].label if name in METRICS else name for name in names) or ACCURACY


def units_of(sweeps: Sequence[Shown]) -> str:
    """What costs count in, in words."""
    return " or ".join(sorted({sweep.look.unit for sweep in sweeps}))
