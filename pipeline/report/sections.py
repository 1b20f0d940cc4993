"""The sections of the page by name, in order. A new one is a file and a line here, or a line from a plug-in."""

from __future__ import annotations

from pipeline.records import RunResults
from pipeline.report import (
    ablation,
    classes,
    coefficients,
    comparisons,
    cost_accuracy,
    elimination,
    examples,
    ingredients,
    loss,
    methods,
    overview,
    similarity,
    splits,
    sweep,
    versions,
    wise_ft,
)
from pipeline.report.plot import Plot
from pipeline.report.section import Section

SECTIONS: dict[str, Section] = {
    "overview": overview.SECTION,
    "methods": methods.SECTION,
    "comparisons": comparisons.SECTION,
    "classes": classes.SECTION,
    "examples": examples.SECTION,
    "cost-accuracy": cost_accuracy.SECTION,
    "elimination": elimination.SECTION,
    "ablation": ablation.SECTION,
    "coefficients": coefficients.SECTION,
    "loss": loss.SECTION,
    "wise-ft": wise_ft.SECTION,
    "similarity": similarity.SECTION,
    "ingredients": ingredients.SECTION,
    "sweep": sweep.SECTION,
    "splits": splits.SECTION,
    "versions": versions.SECTION,
}


def plots_of(results: RunResults) -> dict[str, Plot]:
    """The figures of all sections by name, in the order of the page."""
    return {plot.name: plot for section in SECTIONS.values() for plot in section.plots(results)}
