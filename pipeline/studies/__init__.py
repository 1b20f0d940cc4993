"""Studies over a finished sweep."""

from pipeline.studies.cost_accuracy import cost_accuracy

__all__ = ["cost_accuracy"]
