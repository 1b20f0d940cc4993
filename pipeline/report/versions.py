"""What is needed to repeat the run."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.records import RunResults
from pipeline.report.formats import MISSING
from pipeline.report.markup import facts
from pipeline.report.plot import Plot
from pipeline.report.section import Section


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    run = results.run
    pairs = [
        ("Sweep", run.sweep_id),
        ("Starting point (SHA-256)", (run.theta0_sha256 or MISSING)[:12]),
        ("Classes", str(len(run.class_names))),
        *sorted(run.versions.items()),
    ]
    return facts(pairs, "facts")


SECTION = Section("Versions", _body)
