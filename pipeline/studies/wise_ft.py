"""Models between the starting point and the soups (App. D of the model-soups paper)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from pipeline.config import Config, Known, MethodName, Once, Section
from pipeline.records import CoefficientRecord, Record, VariantRecord
from pipeline.soup_requests import RecordedSoup, Request, SoupRequest
from pipeline.studies.base import BuiltSoup, Study, StudyInputs
from pipeline.studies.variants import Variant, requests_of, rows_of

logger = logging.getLogger(__name__)


class WiseFtSettings(Section):
    """Between the starting point and the soups, as in App. D of the model-soups paper."""

    methods: Annotated[list[MethodName], Once] = Field([])
    """Methods whose soups are interpolated with theta0; none: no such study."""
    alphas: Annotated[list[Annotated[float, Field(ge=-1e6, le=1e6)]], Once] = Field(
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], min_length=1
    )
    """Where on the line: 0 is theta0, 1 the soup."""


def _resolve(settings: WiseFtSettings, config: Config, known: Known) -> Any:
    problems = []
    if "wise-ft" in settings.methods:
        problems.append("study.wise_ft.methods: wise-ft lies on such a line itself; give methods that do not")
    for method in settings.methods:
        if method not in config.soup.methods:
            problems.append(f"study.wise_ft.methods: '{method}' is not in soup.methods")
    if problems:
        raise ValueError("; ".join(problems))
    return settings


def interpolations(inputs: StudyInputs) -> list[Variant]:
    """Points on the line from theta0 (alpha 0) through the recorded soup of each method (1).

    Ensembles, which have no weights, are left out; so are all where the run has no theta0. BatchNorm statistics are
    renewed at every point, so that a line does not jump where it ends at a trial, which has its own.
    """
    if inputs.run.theta0_sha256 is None:
        return []
    lines = {
        method: _on_line(inputs.whole_sweep(method), rows)
        for method in inputs.settings.methods
        if (rows := inputs.read_coefficients(method)) is not None
    }
    return [
        Variant("wise-ft", method, "alpha", alpha, alpha == 1, replace(line, settings={"alpha": alpha}))
        for method, line in lines.items()
        for alpha in inputs.settings.alphas
    ]


def _on_line(whole: SoupRequest, rows: Sequence[CoefficientRecord]) -> SoupRequest:
    """The request of the recorded soup: its own trials, which may be fewer if some were damaged, theta0 last."""
    if not rows:  # nothing was mixed: there is one ingredient, or all are equal
        coefficients = [(1.0,), *((0.0,) for _ in whole.ingredients[1:])]
        return replace(whole, recorded=RecordedSoup(("model",), tuple(coefficients)))
    layers = tuple(dict.fromkeys(row.layer for row in rows))
    table = {(row.trial_index, row.layer): row.coefficient for row in rows}
    trials = sorted({row.trial_index for row in rows}, key=lambda index: (index < 0, index))
    recorded = RecordedSoup(layers, tuple(tuple(table[trial, layer] for layer in layers) for trial in trials))
    return replace(whole.of(trials), recorded=recorded)


def _requests(inputs: StudyInputs) -> Mapping[str, Request]:
    """The models on the lines; says what is left out."""
    methods = inputs.settings.methods
    if methods and inputs.run.theta0_sha256 is None:
        logger.info("study: wise-ft: left out: this run has no theta0; import the ingredients with --theta0")
        return {}
    for method in methods:
        if inputs.read_coefficients(method) is None:
            logger.info("study: wise-ft: left out: '%s' is an ensemble, which has no weights", method)
    return requests_of(interpolations(inputs))


def _rows(inputs: StudyInputs, soups: Mapping[str, BuiltSoup]) -> Mapping[str, Sequence[Record]]:
    return {"wise_ft": rows_of(interpolations(inputs), soups)}


WISE_FT = Study(
    tables={"wise_ft": VariantRecord},
    requests=_requests,
    rows=_rows,
    settings=WiseFtSettings,
    resolve=_resolve,
)
