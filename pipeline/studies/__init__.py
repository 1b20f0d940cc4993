"""Studies over a finished sweep."""

from pipeline.studies.comparisons import compare_methods
from pipeline.studies.cost_accuracy import CostPoint, cost_points

__all__ = ["CostPoint", "compare_methods", "cost_points"]
