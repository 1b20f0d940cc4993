"""Studies over a finished sweep."""

from pipeline.studies.comparisons import compare_methods
from pipeline.studies.cost_accuracy import cost_record, cost_requests

__all__ = ["compare_methods", "cost_record", "cost_requests"]
