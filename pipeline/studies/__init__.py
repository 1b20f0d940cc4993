"""Studies over a finished sweep."""

from pipeline.studies.cost_accuracy import cost_record, cost_requests

__all__ = ["cost_record", "cost_requests"]
