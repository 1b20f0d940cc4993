"""The table that a sweep writes line by line, as its trials end."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from pipeline.records import IngredientRecord, Scalar
from pipeline.records.hyperparameters import compared, in_words, named, shown

_WIDTH = 112  # the clock comes before it
_GAP = "  "


class ProgressTable:
    """A column for each hyperparameter in which ``trials`` differ, as far as there is room, and what a trial came to.

    The seed, which tells nothing, has none.
    """

    def __init__(self, trials: Sequence[Mapping[str, Scalar]]) -> None:
        differing, self._shared = compared(trials)
        self._first, texts = trials[0], [_cells(trial) for trial in trials]
        # The columns besides: the trial, and what it came to.
        self._outcome = {"val %": 8, "best %": 6, "hours": 8, "done": max(4, 2 * len(str(len(trials))) + 1), "left": 7}
        columns_left = _WIDTH - len("trial") - sum(len(_GAP) + width for width in self._outcome.values())
        self._widths: dict[str, int] = {}
        self._left_out: list[str] = []
        for name in differing:
            if name == "seed":
                continue
            width = max(map(len, [*_in_two(in_words(name)), *(cells.get(name, "") for cells in texts)]))
            if columns_left < len(_GAP) + width:
                self._left_out.append(name)
            else:
                columns_left -= len(_GAP) + width
                self._widths[name] = width

    def head(self, unit: str) -> list[str]:
        """What all trials share, then the headings in two lines; the cost is in ``unit``."""
        lines = []
        if self._shared:
            lines += _wrapped(f"the same in all trials: {named(self._first, self._shared)}")
        if self._left_out:
            lines += _wrapped(f"not in this table for want of room: {', '.join(map(in_words, self._left_out))}")
        outcome = [_in_two(unit.removeprefix("CPU ")) if name == "hours" else ("", name) for name in self._outcome]
        headings = [("", "trial"), *(_in_two(in_words(name)) for name in self._widths), *outcome]
        return [*lines, *(self._line(cells).rstrip() for cells in zip(*headings, strict=True))]

    def row(self, row: IngredientRecord, best: float | None, done: str, left: str) -> str:
        """The line of an ended trial."""
        texts = _cells(row.hyperparameters)
        return self._line(
            [
                str(row.trial_index),
                *(texts.get(name, "-") for name in self._widths),
                _percent(row.val_score) if row.status == "finished" else row.status,
                _percent(best),
                f"{row.gpu_hours:.3g}",
                done,
                left,
            ]
        )

    def _line(self, cells: Sequence[str]) -> str:
        widths = [len("trial"), *self._widths.values(), *self._outcome.values()]
        return _GAP.join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def _cells(trial: Mapping[str, Scalar]) -> dict[str, str]:
    """The hyperparameters in few letters."""
    return {name: text.replace("RandAugment ", "RA ") for name, text in shown(trial, digits=2).items()}


def _in_two(heading: str) -> tuple[str, str]:
    """A heading in two lines, the last word in the second."""
    first, _, last = heading.rpartition(" ")
    return first, last


def _percent(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(f"search: {text}", _WIDTH, subsequent_indent=" " * len("search: "))
