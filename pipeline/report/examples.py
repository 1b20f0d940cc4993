"""Examples that the champion gets right and the best trial wrong, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from pipeline.records import ComparisonRecord, ExampleRecord, RunResults
from pipeline.report.comparisons import against
from pipeline.report.markup import facts, paragraph
from pipeline.report.plot import Plot
from pipeline.report.section import Section
from pipeline.report.styles import style


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    run, rows = results.run, results.table("examples", ExampleRecord)
    if not rows:
        return ""
    pair = against(results.table("comparisons", ComparisonRecord), rows[0].method, rows[0].baseline)
    one, other = (style(method, run.labels).label for method in (rows[0].method, rows[0].baseline))
    won = [row for row in rows if row.prediction == row.label]
    lost = [row for row in rows if row.prediction != row.label]
    content = [
        paragraph(
            f"{run.examples.capitalize()} of the test set that one of the two got right and the other did not, spread "
            "evenly over the set, as models are given them."
        )
    ]
    for right, wrong, some, total in (
        (one, other, won, pair and pair.wins),
        (other, one, lost, pair and pair.losses),
    ):
        number = f"{len(some)} of {total:,}" if total else str(len(some))
        content.append(f"<h3>{escape(f'{right} right, {wrong} wrong ({number})')}</h3>")
        content.append(_list(results, some, (one, other)) if some else paragraph("There are none."))
    return "".join(content)


def _list(results: RunResults, rows: Sequence[ExampleRecord], labels: tuple[str, str]) -> str:
    return f'<ul class="examples">{"".join(_item(results, row, labels) for row in rows)}</ul>'


def _item(results: RunResults, row: ExampleRecord, labels: tuple[str, str]) -> str:
    """An example with its class and both predictions."""
    names = results.run.class_names
    classes = zip(("True", *labels), (row.label, row.prediction, row.baseline_prediction), strict=True)
    said = facts([(who, names[number]) for who, number in classes], "predicted")
    what = f"{results.run.example} {row.image_index} of the test set"
    if row.media_type.startswith("image/"):
        source = f"data:{row.media_type};base64,{row.content}"
        return f'<li><img src="{escape(source)}" alt="{escape(what)}">{said}</li>'
    return f'<li class="wide"><blockquote>{escape(row.content)}</blockquote>{said}</li>'


SECTION = Section("Where they differ", _body, anchor="where-they-differ")
