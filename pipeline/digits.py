"""Numbers as text: as few digits as say something, and as many as tell apart what is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_MORE = 6  # digits at most, beyond the usual ones: what differs only after them differs by rounding


def significant(value: float, digits: int = 3) -> str:
    """A number rounded to so many significant digits, never with an exponent: ``0.00213``, ``12.3``, ``1234``."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = int(f"{rounded:e}".split("e")[1])
    if exponent >= digits:
        return f"{value:.0f}"
    text = f"{rounded:.{digits - 1 - exponent}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def apart(values: Sequence[float], written: Callable[[float, int], str] = significant, digits: int = 3) -> list[str]:
    """Numbers that people compare, ``written`` with so many ``digits``, or more where two would look alike.

    ``apart([0.01, 0.01004])`` is ``0.01`` and ``0.01004``. What differs by rounding alone stays alike.
    """
    different = len({f"{value + 0.0:.9e}" for value in values})  # + 0.0 makes -0.0 zero
    for more in range(_MORE + 1):
        texts = [written(value, digits + more) for value in values]
        if len(set(texts)) >= different:
            return texts
    return [written(value, digits) for value in values]
