"""How numbers are written, on the page and in the terminal alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from pipeline.digits import apart, significant
from pipeline.records import GPU_HOURS
from pipeline.report.intervals import interval

MISSING = "-"
# A smaller rise in RAM is not told: what a process has freed before is used again and adds nothing, so that the same
# soup of models of 3.3 MB came to anything from 32 to 410 MiB.
_TOLD_FROM = 512 * 2**20


def percent(fraction: float | None, decimals: int = 2) -> str:
    """An accuracy, or another score, in per cent with two decimals, without the sign: ``94.57``; ``-`` for None."""
    return MISSING if fraction is None else f"{100 * fraction:.{decimals}f}"


def percents(*fractions: float) -> list[str]:
    """Accuracies that are compared, in per cent: with more decimals where two would look alike."""
    return apart(fractions, percent, 2)


def gains(*fractions: float) -> list[str]:
    """Differences of accuracies in percentage points, ``+1.61``: with more decimals where one would look like none."""
    return apart([*fractions, 0.0], lambda fraction, decimals: f"{100 * fraction:+z.{decimals}f}", 2)[:-1]


def between(accuracy: float, num_images: int | None) -> str:
    """The 95 % interval of an accuracy on so many images, in per cent: ``93.61 to 95.50``; ``-`` for None."""
    if not num_images:
        return MISSING
    low, high = interval(accuracy, num_images)
    return f"{percent(low)} to {percent(high)}"


def capital(text: str) -> str:
    """The text as a sentence begins: ``Macro F1``."""
    return text[:1].upper() + text[1:]


def duration(seconds: float) -> str:
    """A time span in readable units: ``0.42 s``, ``12.3 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"
    if seconds < 3599.5:
        minutes, rest = divmod(round(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def memory(num_bytes: int | None) -> str:
    """A number of bytes in binary units: ``120 MiB``, ``1.32 GiB``; ``-`` for None."""
    if num_bytes is None:
        return MISSING
    size = float(num_bytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{significant(size)} {unit}"
        size /= 1024
    return f"{significant(size)} GiB"


class HasMemory(Protocol):
    """What building a soup took, as `SoupRecord` tells it."""

    @property
    def peak_memory_bytes(self) -> int:
        """At most at a time."""

    @property
    def peak_memory_kind(self) -> Literal["cuda", "anon"]:
        """Of a GPU, or what was added to the process."""

    @property
    def peak_reserved_bytes(self) -> int | None:
        """What the allocator of a GPU held for that."""


def tells_memory(soups: Sequence[HasMemory]) -> bool:
    """Whether the peak memory of any of them says something, so that a table has a column for it."""
    return any(memory_with_kind(soup) != MISSING for soup in soups)


def memory_with_kind(soup: HasMemory) -> str:
    """Peak memory of a construction and where it was taken: ``1.32 GiB GPU (1.5 GiB held)`` or ``1.2 GiB RAM``.

    ``-`` for a rise in RAM that says nothing (see `about_memory`).
    """
    if soup.peak_memory_kind == "anon" and soup.peak_memory_bytes < _TOLD_FROM:
        return MISSING
    held = "" if soup.peak_reserved_bytes is None else f" ({memory(soup.peak_reserved_bytes)} held)"
    return f"{memory(soup.peak_memory_bytes)} {'GPU' if soup.peak_memory_kind == 'cuda' else 'RAM'}{held}"


def about_memory(soups: Sequence[HasMemory]) -> str:
    """A sentence for each kind of memory figure among the rows: what it holds, what it leaves out, when it is told."""
    kinds = {soup.peak_memory_kind for soup in soups}
    said = ""
    if "cuda" in kinds:
        said += (
            "Peak memory on a GPU is all that PyTorch had given out at once, model and data included; held: what it "
            "had taken from the device for that, fragments included. CUDA's context, about half a GiB, comes on top. "
        )
    if "anon" in kinds:
        said += (
            "Peak memory in RAM is what building the soup added to the process, without files that are mapped and "
            "without what the process had freed before and used again. That differs by hundreds of MiB for one and the "
            f"same soup, so less than {memory(_TOLD_FROM)} is not shown, here and further down. "
        )
    return said


def cost(hours: float, unit: str) -> str:
    """A cost in its unit (see `records.cost_unit`), small ones in words too.

    ``24.1 GPU hours``, ``0.0213 CPU core hours (1 min 17 s of one core)``.
    """
    text = f"{significant(hours)} {unit}"
    device = unit.removeprefix("CPU ").removesuffix(" hours")
    return f"{text} ({duration(3600 * hours)} of one {device})" if 0 < hours < 1 else text


def spent(hours: Mapping[str, float]) -> str:
    """What trials cost by unit (see `records.costs`): ``24.1 GPU hours and 3.5 CPU core hours``."""
    return " and ".join(cost(value, unit) for unit, value in hours.items()) or cost(0, GPU_HOURS)


class CostScale(NamedTuple):
    """The unit of a column of costs: multiply hours by ``factor`` to get ``unit``."""

    factor: float
    unit: str

    def text(self, hours: float) -> str:
        """``hours`` in this unit, the number alone."""
        return significant(hours * self.factor)


def cost_scale(largest_hours: float, unit: str) -> CostScale:
    """The unit in which a column up to ``largest_hours`` reads best: hours, minutes or seconds of the same resource."""
    if largest_hours >= 0.5:
        return CostScale(1, unit)
    if largest_hours >= 1 / 60:
        return CostScale(60, unit.replace("hours", "minutes"))
    return CostScale(3600, unit.replace("hours", "seconds"))


def count(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun, in the singular or the plural (with an s, unless given): ``1 trial``, ``1,600 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {plural or f'{noun}s'}"


def ingredient_name(trial_index: int) -> str:
    """What an ingredient is called: the number of its trial; theta0, which is of none, has a negative one."""
    return "theta0" if trial_index < 0 else str(trial_index)


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text: the first column to the left, the others to the right, a line below the headings."""
    table = [headings, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)
