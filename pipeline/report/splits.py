"""What each example was used for."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.records import RunResults
from pipeline.report.formats import capital
from pipeline.report.markup import Column, table
from pipeline.report.plot import Plot
from pipeline.report.section import Section

_SPLIT_USES = {
    "pretrain": "makes the starting point that all trials share",
    "train": "fine-tunes every trial",
    "fit": "scores the trials and teaches the soups (validation {metric})",
    "select": "chooses the champion",
    "test": "reported, never used for a choice",
}

_SHIFT_USE = "another test set: reported, never used for a choice"


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    run = results.run
    headings = {"Split": False, capital(run.examples): True, "Used for": False, "SHA-256 of indices": False}
    columns = [Column(heading, numeric) for heading, numeric in headings.items()]
    rows = [
        (split.name, f"{split.size:,}", _use(results, split.name), split.indices_sha256[:12]) for split in run.splits
    ]
    return table(f"What each {run.example} was used for", columns, rows, source="run.json")


def _use(results: RunResults, split: str) -> str:
    return _SPLIT_USES.get(split, _SHIFT_USE).format(metric=results.run.metric_label)


SECTION = Section("Splits", _body)
