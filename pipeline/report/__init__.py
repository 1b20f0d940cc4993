"""The report of a run, as a pure function of its records: one HTML page, figures, and the table of the command line."""

from pipeline.report.text import methods_table
from pipeline.report.write import write_report

__all__ = ["methods_table", "write_report"]
