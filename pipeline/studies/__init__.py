"""Studies over a finished sweep."""

from pipeline.studies.comparisons import compare_methods, correct_on_test
from pipeline.studies.cost_accuracy import CostPoint, cost_points, cost_ratios, with_gains
from pipeline.studies.variants import Variant, ablations, eliminations, interpolations

__all__ = [
    "CostPoint",
    "Variant",
    "ablations",
    "compare_methods",
    "correct_on_test",
    "cost_points",
    "cost_ratios",
    "eliminations",
    "interpolations",
    "with_gains",
]
