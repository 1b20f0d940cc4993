"""Studies over a finished sweep: a file each, and the table of their names; each is a stage before the report."""

from pipeline.records import Record
from pipeline.studies.ablation import ABLATION
from pipeline.studies.base import Answer, BuiltSoup, Study, StudyInputs, finished_trials, whole_sweep
from pipeline.studies.comparisons import COMPARISONS
from pipeline.studies.cost_accuracy import COST_ACCURACY, CostPoint, cost_rows, points_so_far
from pipeline.studies.elimination import ELIMINATION
from pipeline.studies.mistakes import MISTAKES
from pipeline.studies.similarity import SIMILARITY
from pipeline.studies.stop import gains_per_hours, no_more_gain, over_budget
from pipeline.studies.wise_ft import WISE_FT

STUDIES: dict[str, Study] = {
    "comparisons": COMPARISONS,
    "mistakes": MISTAKES,
    "cost-accuracy": COST_ACCURACY,
    "elimination": ELIMINATION,
    "ablation": ABLATION,
    "wise-ft": WISE_FT,
    "similarity": SIMILARITY,
}


def study_tables() -> dict[str, type[Record]]:
    """The tables of all studies by name."""
    return {name: kind for study in STUDIES.values() for name, kind in study.tables.items()}


__all__ = [
    "STUDIES",
    "Answer",
    "BuiltSoup",
    "CostPoint",
    "Study",
    "StudyInputs",
    "cost_rows",
    "finished_trials",
    "gains_per_hours",
    "no_more_gain",
    "over_budget",
    "points_so_far",
    "study_tables",
    "whole_sweep",
]
