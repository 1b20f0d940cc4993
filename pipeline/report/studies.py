"""The sections on the studies: what cost brought, and what the soups depend on. Without records there is no section."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape

from pipeline.records import (
    CoefficientRecord,
    CostRatioRecord,
    CostRecord,
    RunRecord,
    RunResults,
    SimilarityRecord,
    VariantRecord,
    cost_unit,
)
from pipeline.report.formats import between, cost, count, duration, percent, significant
from pipeline.report.intervals import split_size
from pipeline.report.markup import Column, chart, paragraph, section, table
from pipeline.report.plot import Plot
from pipeline.report.plots import (
    COEFFICIENT_MAP,
    COEFFICIENTS,
    COST,
    ELIMINATION,
    NUMBER,
    SIMILARITY,
    WISE_FT,
    WISE_FT_SHIFTS,
    ablated,
    ablation_name,
)
from pipeline.report.series import CostLine, cost_lines, learned_coefficients
from pipeline.report.styles import style
from pipeline.report.text import memory_with_kind

_BANDS = (
    "Bars are 95 % bootstrap intervals over test images. Dashed lines, where there are any, are means over random "
    "orders of the trials, and the area around them holds 95 % of these orders."
)
_ACCURACIES = ("Validation %", "Select %", "Test %", "95 % interval")


def cost_section(results: RunResults, plots: Mapping[str, Plot]) -> str:
    """The cost curve, what equal accuracy costs by each method, and the points as a table."""
    title = "Cost against accuracy"
    if not results.table("cost_accuracy", CostRecord):
        how = "The cost curve has not been computed yet. Run the study stage of the same config: "
        command = "<code>python -m pipeline run --config CONFIG --stages study,report</code>"
        return section("cost", title, f"<p>{escape(how)}{command}</p>")
    unit, images = cost_unit(results.ingredients), split_size(results.run, "test")
    lines = cost_lines(results.table("cost_accuracy", CostRecord))
    columns = [Column("Method", False), *map(Column, ("Ingredients", unit, *_ACCURACIES))]
    rows = [
        (
            style(line.method).label,
            str(row.num_ingredients),
            significant(row.gpu_hours),
            percent(row.val_accuracy),
            percent(row.select_accuracy),
            percent(row.test_accuracy),
            between(row.test_accuracy, images),
        )
        for line in lines
        for row, _ in line.points
    ]
    points = table("The cost curve in search order", columns, rows, source="cost_accuracy.parquet")
    return section(
        "cost",
        title,
        paragraph(
            "Each point is a model made from the first trials of the sweep, in search order; the number beside it says "
            f"how many. Further right is dearer (all trials so far, failed ones too, in {unit}), higher is better."
        ),
        chart(plots[COST]),
        *(paragraph(worth(results.run, line, unit)) for line in lines),
        _ratios(results.table("cost_ratios", CostRatioRecord), unit),
        chart(plots[NUMBER]),
        paragraph(_BANDS, "note"),
        f"<details><summary>The points as a table</summary>{points}</details>",
    )


def _ratios(ratios: Sequence[CostRatioRecord], unit: str) -> str:
    """What each pair of methods costs at equal accuracy."""
    if not ratios:
        return ""
    headings = ("Test %", f"{unit} of the first", f"{unit} of the second", "Times the cost", "95 % interval", "Orders")
    columns = [Column("Methods", False), *map(Column, headings)]
    rows = [
        (
            f"{style(row.method).label}, {style(row.baseline).label}",
            percent(row.accuracy),
            significant(row.gpu_hours),
            significant(row.baseline_gpu_hours),
            significant(row.ratio),
            f"{significant(row.low)} to {significant(row.high)}",
            str(row.orders),
        )
        for row in ratios
    ]
    return table(
        "What the second method costs in times of the first, for the highest test accuracy that both reach",
        columns,
        rows,
        source="cost_ratios.parquet",
    ) + paragraph("The interval resamples test images and, where there are several, orders of the trials.", "note")


def worth(run: RunRecord, line: CostLine, unit: str) -> str:
    """What the last step of a cost curve brought, in words; nothing where there is only one point."""
    if len(line.points) < 2:
        return ""
    (before, _), (after, _) = line.points[-2:]
    points, hours = 100 * (after.test_accuracy - before.test_accuracy), after.gpu_hours - before.gpu_hours
    text = (
        f"The last {cost(hours, unit)}, from {before.num_ingredients} to {count(after.num_ingredients, 'ingredient')}, "
        f"changed the test accuracy of {style(line.method).label} by {points:+.2f} pp"
    )
    if points > 0:
        each = hours / points
        price = "" if run.price_per_gpu_hour is None else f", {significant(each * run.price_per_gpu_hour)} in money"
        text += f": {cost(each, unit)} for each percentage point{price}"
    if after.gain_low is None or after.gain_high is None:
        return f"{text}."
    if after.gain_low > 0:
        verdict = "More trials may still pay off."
    elif points > 0:
        verdict = "That does not tell whether more trials would pay off."
    else:
        verdict = "That is no reason for more trials."
    interval = f"{100 * after.gain_low:+.2f} to {100 * after.gain_high:+.2f} pp"
    return f"{text}. The 95 % interval of that change is {interval}. {verdict}"


def elimination_section(results: RunResults, plots: Mapping[str, Plot]) -> str:
    """Tab. 3 of the MEHL-Soup paper."""
    if not results.table("elimination", VariantRecord):
        return ""
    return section(
        "elimination",
        "Without the best ingredients",
        paragraph(
            "Soups of the sweep without its best ingredients by validation accuracy: how much a method owes to a few "
            "good trials."
        ),
        chart(plots[ELIMINATION]),
        _variants(
            results,
            results.table("elimination", VariantRecord),
            "Eliminated",
            "Soups without the best ingredients",
            "elimination.parquet",
        ),
    )


def ablation_section(results: RunResults, plots: Mapping[str, Plot]) -> str:
    """Fig. 3 and App. D of the MEHL-Soup paper."""
    if not results.table("ablation", VariantRecord):
        return ""
    parts = []
    for method, name, rows in ablated(results.table("ablation", VariantRecord)):
        parts.append(f"<h3>{escape(name)} of {escape(style(method).label)}</h3>")
        if name == "seed" and len(rows) > 1:
            accuracies = [100 * row.test_accuracy for row in rows]
            parts.append(
                paragraph(
                    f"Mean of {count(len(rows), 'seed')}: {statistics.mean(accuracies):.2f} %, standard deviation "
                    f"{statistics.stdev(accuracies):.2f} pp."
                )
            )
        caption = f"Soups with other values of {name}"
        parts += [
            chart(plots[ablation_name(method, name)]),
            _variants(results, rows, name, caption, "ablation.parquet"),
        ]
    return section(
        "ablation",
        "Ablation",
        paragraph("The same soups with one setting changed; the run's own value is marked."),
        *parts,
    )


def wise_ft_section(results: RunResults, plots: Mapping[str, Plot]) -> str:
    """App. D of the model-soups paper."""
    if not results.table("wise_ft", VariantRecord):
        return ""
    return section(
        "interpolation",
        "Between the starting point and the soups",
        paragraph("WiSE-FT: the weights (1 - alpha) theta0 + alpha soup."),
        *(chart(plots[name]) for name in (WISE_FT, WISE_FT_SHIFTS) if name in plots),
        _variants(
            results,
            results.table("wise_ft", VariantRecord),
            "alpha",
            "Models between theta0 and the soups",
            "wise_ft.parquet",
            "soup",
        ),
    )


def coefficients_section(results: RunResults, plots: Mapping[str, Plot]) -> str:
    """Fig. 1 of the MEHL-Soup paper."""
    learned = learned_coefficients(results)
    if not learned:
        return ""
    columns = [Column("Method", False), *map(Column, ("Layers", "Smallest", "Largest", "Spread", "Outside 0 to 1"))]
    rows = [(style(method).label, *_spread(rows)) for method, rows in learned.items()]
    return section(
        "coefficients",
        "Mixing coefficients",
        paragraph(
            "Within a layer the coefficients of all ingredients sum to one. Outside 0 to 1 a soup extrapolates: it "
            "goes away from an ingredient. The spread is the standard deviation."
        ),
        table("Mixing coefficients by method", columns, rows, source="coefficients/METHOD.parquet"),
        *(chart(plots[name]) for name in (COEFFICIENTS, COEFFICIENT_MAP) if name in plots),
    )


def _spread(rows: Sequence[CoefficientRecord]) -> tuple[str, ...]:
    values = [row.coefficient for row in rows]
    outside = sum(not 0 <= value <= 1 for value in values)
    return (
        str(len({row.layer for row in rows})),
        f"{min(values):.4f}",
        f"{max(values):.4f}",
        f"{statistics.pstdev(values):.4f}",
        f"{percent(outside / len(values))} %",
    )


def similarity_section(results: RunResults, plots: Mapping[str, Plot]) -> str:
    """App. D of the MEHL-Soup paper."""
    rows = results.table("similarity", SimilarityRecord)
    if not rows:
        return ""
    there = len({index for row in rows for index in (row.trial_index, row.other_index)})
    finished = sum(row.status == "finished" for row in results.ingredients)
    which = "" if there == finished else f" (the first {there} of {finished})"
    means = [
        ("weights", statistics.mean(row.weights for row in rows)),
        ("directions from their mean (decentralized)", statistics.mean(row.from_mean for row in rows)),
    ]
    known = [row.from_theta0 for row in rows if row.from_theta0 is not None]
    if known:
        means.append(("directions from the starting point", statistics.mean(known)))
    text = ", ".join(f"{value:.4f} between {name}" for name, value in means)
    return section(
        "similarity",
        "How alike the ingredients are",
        paragraph(f"Mean cosine of {count(len(rows), 'pair')} of ingredients{which}: {text} (similarity.parquet)."),
        chart(plots[SIMILARITY]),
    )


def _variants(
    results: RunResults, rows: Sequence[VariantRecord], heading: str, caption: str, source: str, default: str = "run"
) -> str:
    """A table of soups of which one thing varies; ``default`` names the run's own value."""
    images = split_size(results.run, "test")
    shifts = [f"{name} %" for name in rows[0].shift_accuracies]
    headings = (heading, *_ACCURACIES, *shifts, "Selected", "Construction", "Peak memory")
    columns = [Column("Method", False), *map(Column, headings)]
    cells = [
        (
            style(row.method).label,
            f"{row.value} ({default})" if row.is_default else row.value,
            percent(row.val_accuracy),
            percent(row.select_accuracy),
            percent(row.test_accuracy),
            between(row.test_accuracy, images),
            *map(percent, row.shift_accuracies.values()),
            f"{row.num_selected} of {row.num_ingredients}",
            duration(row.construction_seconds),
            memory_with_kind(row),
        )
        for row in rows
    ]
    return table(caption, columns, cells, source=source)
