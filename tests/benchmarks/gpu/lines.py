"""What a part of the check found: a line that passes, fails, or says why it was left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scale = Literal["full", "quick", "tiny"]
GIB = 1 << 30


@dataclass(frozen=True)
class Line:
    """``value`` is the figure behind ``measured``, where there is one."""

    verdict: Literal["PASS", "FAIL", "SKIP"]
    what: str
    measured: str
    aim: str = "-"
    value: float | None = None

    def __str__(self) -> str:
        return f"{self.verdict}  {self.what:<72}  {self.measured:<64}  {self.aim}"


def holds(what: str, fulfilled: bool, measured: str, aim: str) -> Line:
    """Something that is so or is not."""
    return Line("PASS" if fulfilled else "FAIL", what, measured, aim)


def at_most(what: str, value: float, bound: float | None, unit: str = "", *, note: str = "") -> Line:
    """A figure and what it may be; None: it has no aim and is only recorded."""
    aim = "-" if bound is None else f"<= {_shown(bound, unit)}"
    fulfilled = bound is None or value <= bound
    return Line("PASS" if fulfilled else "FAIL", what, _shown(value, unit) + (note and f"; {note}"), aim, value)


def at_least(what: str, value: float, bound: float | None, unit: str = "", *, note: str = "") -> Line:
    """A figure and what it should reach; None: it has no aim and is only recorded."""
    aim = "-" if bound is None else f">= {_shown(bound, unit)}"
    fulfilled = bound is None or value >= bound
    return Line("PASS" if fulfilled else "FAIL", what, _shown(value, unit) + (note and f"; {note}"), aim, value)


def _shown(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}".strip() if value >= 1000 else f"{value:.3g} {unit}".strip()
