"""How good the champion and the best trial are at each class, and what they take for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.records import ConfusionRecord, RunResults
from pipeline.report.formats import between, percent
from pipeline.report.intervals import interval
from pipeline.report.markup import Column, chart, folded, paragraph, table
from pipeline.report.plot import HeatMap, LinePlot, Plot, Series
from pipeline.report.section import Section
from pipeline.report.styles import style

_NAME, _SOURCE = "class_accuracy", "confusions.parquet"
_MOST_DRAWN = 30  # classes
_MOST_MAPPED = 20  # classes: the map of more cannot be read
_MOST_LISTED = 15  # pairs of classes


@dataclass(frozen=True)
class ByClass:
    """What a method took for what. ``images`` and ``right`` are by class; ``mistaken`` by true and predicted class."""

    method: str
    images: Mapping[int, int]
    right: Mapping[int, int]
    mistaken: Mapping[tuple[int, int], int]

    def accuracy(self, label: int) -> float:
        """The share of the images of a class that was right."""
        return self.right[label] / self.images[label]


def by_class(rows: Sequence[ConfusionRecord]) -> list[ByClass]:
    """The methods in order; a class of which there is no image is left out."""
    found = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        images, right = dict.fromkeys((row.label for row in own), 0), dict.fromkeys((row.label for row in own), 0)
        for row in own:
            images[row.label] += row.images
            right[row.label] += row.images if row.label == row.prediction else 0
        mistaken = {(row.label, row.prediction): row.images for row in own if row.label != row.prediction}
        found.append(ByClass(method, images, right, mistaken))
    return found


def in_order(methods: Sequence[ByClass]) -> list[int]:
    """The classes that are drawn: those that differ most, from what the first method gains to what it loses."""
    first, last = methods[0], methods[-1]

    def gain(label: int) -> float:
        return first.accuracy(label) - last.accuracy(label)

    drawn = sorted(sorted(first.images), key=lambda label: -abs(gain(label)))[:_MOST_DRAWN]
    return sorted(sorted(drawn), key=lambda label: -gain(label))


def _plots(results: RunResults) -> list[Plot]:
    methods = by_class(results.table("confusions", ConfusionRecord))
    return [_accuracies(results, methods), *_maps(results, methods)] if methods else []


def _accuracies(results: RunResults, methods: Sequence[ByClass]) -> LinePlot:
    labels, series = in_order(methods), []
    for number, method in enumerate(methods):
        bounds = [interval(method.accuracy(label), method.images[label]) for label in labels]
        beside = min(0.3, len(labels) / 30) * (number - (len(methods) - 1) / 2)
        series.append(
            Series(
                *style(method.method, results.run.labels),
                x=[place + beside for place in range(len(labels))],
                y=[100 * method.accuracy(label) for label in labels],
                low=[100 * low for low, _ in bounds],
                high=[100 * high for _, high in bounds],
                line=None,
            )
        )  # fmt: skip
    some = len(labels) < len(methods[0].images)
    what = f"Test accuracy of each class{', of those that differ most' if some else ''}, with 95 % intervals"
    names = [_short(results.run.class_names[label]) for label in labels]
    return LinePlot(_NAME, what, "Class", "Test accuracy (%)", series, source=_SOURCE, ticks=names)


def _maps(results: RunResults, methods: Sequence[ByClass]) -> list[HeatMap]:
    """What is taken for what, of each method in the same colours; none where it cannot be read, or says nothing."""
    names = results.run.class_names
    most = max((images for method in methods for images in method.mistaken.values()), default=0)
    if not 2 < len(names) <= _MOST_MAPPED or not most:
        return []
    classes = range(len(names))
    return [
        HeatMap(
            f"confusions_{number}",
            f"{results.run.examples.capitalize()} of each class that {style(method.method, results.run.labels).label} "
            "took for another",
            "Predicted",
            "True class",
            results.run.examples.capitalize(),
            names,
            names,
            [[None if one == other else method.mistaken.get((one, other), 0) for other in classes] for one in classes],
            source=_SOURCE,
            ends=(0, most),
            counts=True,
        )
        for number, method in enumerate(methods)
    ]


def _body(results: RunResults, plots: Mapping[str, Plot]) -> str:
    methods = by_class(results.table("confusions", ConfusionRecord))
    if not methods:
        return ""
    names = [style(method.method, results.run.labels).label for method in methods]
    classes = len(methods[0].images)
    drawn = f" Of {classes:,} classes the {_MOST_DRAWN} that differ most are drawn." if classes > _MOST_DRAWN else ""
    chance = f" Few {results.run.examples} of a class make wide intervals; of many classes some differ by chance alone."
    return "".join(
        [
            paragraph(
                f"The share of the test {results.run.examples} of each class that {' and '.join(names)} got right."
                f"{drawn}{chance}"
            ),
            chart(plots[_NAME]),
            folded("All classes as a table", _table(results, methods)),
            f"<h3>What is taken for what</h3>{_confusions(results, methods, plots)}",
        ]
    )


def _table(results: RunResults, methods: Sequence[ByClass]) -> str:
    names = [style(method.method, results.run.labels).label for method in methods]
    columns = [Column("Class", False), Column(f"Test {results.run.examples}")]
    for name in names:
        columns += [Column(f"{name} %"), Column("95 % interval")]
    columns += [Column("Gain, pp")] if len(methods) > 1 else []
    rows = []
    for label in sorted(methods[0].images):
        cells = [results.run.class_names[label], f"{methods[0].images[label]:,}"]
        for method in methods:
            cells += [percent(method.accuracy(label)), between(method.accuracy(label), method.images[label])]
        if len(methods) > 1:
            cells.append(f"{100 * (methods[0].accuracy(label) - methods[-1].accuracy(label)):+.2f}")
        rows.append(cells)
    return table("Test accuracy of each class", columns, rows, source=_SOURCE)


def _confusions(results: RunResults, methods: Sequence[ByClass], plots: Mapping[str, Plot]) -> str:
    maps = [plot for name, plot in plots.items() if name != _NAME]
    if maps:
        return f'<div class="beside">{"".join(map(chart, maps))}</div>'
    pairs = dict.fromkeys(pair for method in methods for pair in method.mistaken)
    if not pairs:
        return paragraph("Nothing: all are right.")
    often = sorted(pairs, key=lambda pair: (-max(method.mistaken.get(pair, 0) for method in methods), pair))
    columns = [Column("Class", False), Column("Taken for", False)]
    columns += [Column(style(method.method, results.run.labels).label) for method in methods]
    names = results.run.class_names
    rows = [
        (names[one], names[other], *(f"{method.mistaken.get((one, other), 0):,}" for method in methods))
        for one, other in often[:_MOST_LISTED]
    ]
    return table("The most frequent mistakes on test", columns, rows, source=_SOURCE)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


SECTION = Section("Accuracy per class", _body, _plots, anchor="accuracy-per-class")
