"""How the loss on the fit examples goes while the methods learn, block by block."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from pipeline.records import LossRecord, RunResults
from pipeline.report.formats import count
from pipeline.report.markup import chart, paragraph
from pipeline.report.plot import LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.styles import style

_NAME = "loss"
_DRAWN = 300  # points of a line, about: each the mean of so many steps that no more are needed
_NUMBERED = 12  # blocks of a line, at most


def _plots(results: RunResults) -> list[Plot]:
    if not results.losses:
        return []
    numbered: set[tuple[int, int]] = set()  # blocks by number and first step: lines on each other have them once
    series = [_line(results, method, rows, numbered) for method, rows in results.losses.items()]
    what = f"Loss on the fit {results.run.examples} while methods learn; numbers say which block begins there"
    return [LinePlot(_NAME, what, "Step", "Loss", series, whole_x=True, source="history/METHOD.parquet")]


def _line(results: RunResults, method: str, rows: Sequence[LossRecord], numbered: set[tuple[int, int]]) -> Series:
    blocks = by_block(rows)
    width = -(-len(rows) // _DRAWN)  # steps of a point; no point is of two blocks
    each = -(-len(blocks) // _NUMBERED)
    x, y, numbers = [], [], []
    for block, steps in enumerate(blocks):
        place = (block, steps[0].step)
        for start in range(0, len(steps), width):
            some = steps[start : start + width]
            x.append(statistics.mean(row.step for row in some))
            y.append(statistics.mean(row.loss for row in some))
            numbers.append("" if start or block % each or place in numbered else str(block + 1))
        numbered.add(place)
    look = style(method, results.run.labels)
    return Series(*look, x, y, points=False, numbers=numbers, sides=["above" if text else None for text in numbers])


def by_block(rows: Sequence[LossRecord]) -> list[list[LossRecord]]:
    """The steps of each block, in order."""
    blocks: dict[int, list[LossRecord]] = {}
    for row in rows:
        blocks.setdefault(row.block, []).append(row)
    return list(blocks.values())


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    if not plots:
        return ""
    said = []
    for method, rows in results.losses.items():
        blocks = by_block(rows)
        steps = f"{count(len(blocks), 'block')} of {count(len(blocks[0]), 'step')}"
        said.append(f"{style(method, results.run.labels).label} in {steps}")
    text = (
        f"These methods learn their coefficients on the fit {results.run.examples}, a block of models at a time; each "
        f"block goes on from the soup that the one before has left: {', '.join(said)}. A point is the mean over some "
        "steps where there are many."
    )
    return paragraph(text) + chart(plots[_NAME])


SECTION = Section("Blocks and loss over steps", _body, _plots)
