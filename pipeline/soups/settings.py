"""Validation shared by the methods' settings: all problems at once, each naming field, value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pipeline.errors import quoted

_MOST = 10**9  # of whatever is counted or measured


class Check:
    """Collects what is wrong with a settings dataclass; `done` raises it as one ValueError."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.problems: list[str] = []

    def refuse(self, field: str, allowed: str) -> None:
        """Note the field as wrong."""
        self.problems.append(f"{field} is {quoted(getattr(self.settings, field))}, allowed: {allowed}")

    def one_of(self, field: str, allowed: Sequence[str | None]) -> None:
        """The field is one of these values."""
        if getattr(self.settings, field) not in allowed:
            self.refuse(field, ", ".join("none" if value is None else value for value in allowed))

    def integer(self, field: str, *, at_least: int, also: Sequence[str | None] = ()) -> None:
        """The field is an integer from ``at_least`` on, or one of ``also``."""
        value = getattr(self.settings, field)
        if value in also:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= _MOST:
            others = "".join(f", {'none' if other is None else other}" for other in also)
            self.refuse(field, f"a whole number from {at_least} to {_MOST}{others}")

    def number(
        self, field: str, *, low: float, high: float = _MOST, open_low: bool = False, optional: bool = False
    ) -> None:
        """The field is a number in [low, high), or (low, high) with ``open_low``."""
        value = getattr(self.settings, field)
        if optional and value is None:
            return
        real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not real or value < low or value >= high or (open_low and value == low):
            start = f"above {low:g}" if open_low else f"from {low:g} on"
            self.refuse(field, f"a number {start} and below {high:g}")

    def boolean(self, field: str) -> None:
        """The field is true or false."""
        if not isinstance(getattr(self.settings, field), bool):
            self.refuse(field, "true, false")

    def done(self) -> None:
        """Raise ValueError with all problems, if there are any."""
        if self.problems:
            raise ValueError("; ".join(self.problems))
