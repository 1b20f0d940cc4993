"""The study's figure and section."""

from bistro.leave_one_out import LeaveOneOutRecord
from pipeline.report import Section
from pipeline.report.markup import Column, chart, paragraph, table
from pipeline.report.plot import LinePlot, Series
from pipeline.report.styles import style


def plots(results):
    rows = results.table("leave_one_out", LeaveOneOutRecord)
    if not rows:
        return []
    series = Series(
        *style(rows[0].method, results.run.labels),
        x=[row.left_out for row in rows],
        y=[100 * row.test_accuracy for row in rows],
        line=None,
    )
    what = "Test accuracy of the soup without each trial"
    return [LinePlot("leave_one_out", what, "Trial that is left out", "Test accuracy (%)", [series], whole_x=True)]


def body(results, plots):
    rows = results.table("leave_one_out", LeaveOneOutRecord)
    if not rows:
        return ""
    cells = [(str(row.left_out), f"{100 * row.test_accuracy:.2f}") for row in rows]
    return "".join(
        [
            paragraph("Soups without one of the trials each."),
            chart(plots["leave_one_out"]),
            table(
                "Soups without a trial", [Column("Left out"), Column("Test %")], cells, source="leave_one_out.parquet"
            ),
        ]
    )


LEAVE_ONE_OUT_SECTION = Section("What each ingredient is worth", body, plots)
