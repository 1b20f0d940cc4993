"""The report of a run, as a pure function of its records: one HTML page, figures, and the table of the command line."""

from pipeline.report.compare import comparison_page
from pipeline.report.cost_accuracy import point_line, points_table
from pipeline.report.methods import champion_of
from pipeline.report.overview import headline
from pipeline.report.page import page
from pipeline.report.section import Section
from pipeline.report.sections import SECTIONS
from pipeline.report.starting_point import below_start
from pipeline.report.text import methods_table
from pipeline.report.write import write_page, write_report

__all__ = [
    "SECTIONS",
    "Section",
    "below_start",
    "champion_of",
    "comparison_page",
    "headline",
    "methods_table",
    "page",
    "point_line",
    "points_table",
    "write_page",
    "write_report",
]
