"""The charts of the page, built with plotly.

Text and grid are given in greys that can be read on light and on dark; the page's style sheet sharpens them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from pipeline.records import CostRecord, IngredientRecord, RunRecord, SoupRecord, cost_unit
from pipeline.report.formats import augmentation, cost, count, percent, setting
from pipeline.report.series import champion_of, cost_lines, trials
from pipeline.report.styles import GREY, TEST_COLOUR, VALIDATION_COLOUR, style

_CONFIG = {"responsive": True, "displayModeBar": False}


def cost_chart(costs: Sequence[CostRecord], ingredients: Sequence[IngredientRecord]) -> go.Figure:
    """Test accuracy against the cost of the trials (Fig. 2), the number of ingredients beside each point."""
    unit = cost_unit(ingredients)
    figure = _empty(f"Cost so far ({unit})", "Test accuracy (%)")
    sides = {"above": "top center", "below": "bottom center", None: "top center"}
    for line in cost_lines(costs):
        look = style(line.method)
        rows = [point.record for point in line.points]
        hover = [
            f"<b>{escape(look.label)}</b><br>{count(row.num_ingredients, 'ingredient')}<br>{cost(row.gpu_hours, unit)}"
            f"<br>test {percent(row.test_accuracy)} %<br>validation {percent(row.val_accuracy)} %"
            for row in rows
        ]
        figure.add_scatter(
            x=[row.gpu_hours for row in rows],
            y=[100 * row.test_accuracy for row in rows],
            name=escape(look.label),
            mode="lines+markers+text",
            text=[str(point.record.num_ingredients) if point.label_side else "" for point in line.points],
            textposition=[sides[point.label_side] for point in line.points],
            textfont={"color": GREY},
            line={"color": look.colour, "width": 2.5},
            marker={"symbol": look.symbol, "size": 9},
            cliponaxis=False,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    return figure


def ingredients_chart(
    run: RunRecord, ingredients: Sequence[IngredientRecord], soups: Sequence[SoupRecord]
) -> go.Figure:
    """Validation and test accuracy of every trial in search order; hovering shows its hyperparameters."""
    figure = _empty("Trial, in search order", "Accuracy (%)")
    rows = trials(ingredients)
    unit = cost_unit(ingredients)
    for label, name, symbol, colour in (
        ("Validation", "val_accuracy", "square-open", VALIDATION_COLOUR),
        ("Test", "test_accuracy", "circle", TEST_COLOUR),
    ):
        known = [row for row in rows.finished if getattr(row, name) is not None]
        _add_points(figure, label, symbol, colour, known, [getattr(row, name) for row in known], unit)
    if rows.without:
        _add_points(figure, "No ingredient", "x-thin", GREY, rows.without, [rows.floor] * len(rows.without), unit)
    champion = champion_of(run, soups)
    if champion is not None and ingredients:
        look = style(champion.method)
        indices = [row.trial_index for row in ingredients]
        figure.add_scatter(
            x=[min(indices) - 0.5, max(indices) + 0.5],
            y=[100 * champion.test_accuracy] * 2,
            name="Champion (test)",
            mode="lines",
            line={"color": look.colour, "width": 2, "dash": "dash"},
            hovertemplate="%{y:.2f} %<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(tickformat="d")
    return figure


def script(chart_id: str, figure: go.Figure) -> str:
    """The JavaScript statement that draws ``figure`` into the element ``chart_id``; safe inside a script element."""
    # Plotly's encoder may be orjson or json; only the first escapes angle brackets.
    spec = figure.to_json().replace("<", "\\u003c").replace(">", "\\u003e")
    draw = f"Plotly.newPlot({json.dumps(chart_id)}, spec.data, spec.layout, {json.dumps(_CONFIG)})"
    return f"{{ const spec = {spec}; {draw}; }}"


def _add_points(
    figure: go.Figure,
    label: str,
    symbol: str,
    colour: str,
    rows: Sequence[IngredientRecord],
    values: Sequence[float],
    unit: str,
) -> None:
    """Add trials as points at the given accuracies (fractions)."""
    figure.add_scatter(
        x=[row.trial_index for row in rows],
        y=[100 * value for value in values],
        name=label,
        mode="markers",
        marker={"symbol": symbol, "size": 9, "color": colour, "line": {"width": 2, "color": colour}},
        cliponaxis=False,
        customdata=[_trial_hover(row, unit) for row in rows],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _trial_hover(row: IngredientRecord, unit: str) -> str:
    """What a trial came to, what it cost and its hyperparameters, in plotly's markup."""
    lines = [f"<b>Trial {row.trial_index}</b>, {row.status}"]
    if row.status == "finished":
        lines.append(f"validation {percent(row.val_accuracy)} %, test {percent(row.test_accuracy)} %")
    elif row.reason:
        lines.append(escape(row.reason if len(row.reason) <= 60 else f"{row.reason[:57]}..."))
    if row.device == "imported":
        return "<br>".join([*lines, cost(row.gpu_hours, unit), "imported"])
    return "<br>".join(
        [
            *lines,
            cost(row.gpu_hours, unit),
            f"lr {setting(row.lr)}, weight decay {setting(row.weight_decay)}",
            f"{count(row.epochs or 0, 'epoch')}, batch size {row.batch_size}",
            f"label smoothing {setting(row.label_smoothing)}, mixup {setting(row.mixup)}",
            f"{augmentation(row)}, seed {row.seed}",
        ]
    )


def _empty(x_title: str, y_title: str) -> go.Figure:
    """A figure with titled axes on a transparent ground, the legend above, dragging left to the page's scrolling."""
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "exponentformat": "none", "automargin": True}
    return go.Figure(
        layout={
            "template": {},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 13},
            "xaxis": {**axis, "title": {"text": x_title}},
            "yaxis": {**axis, "title": {"text": y_title}},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.02,
                "yanchor": "bottom",
            },
            "hoverlabel": {
                "bgcolor": "#22272E",
                "bordercolor": "#22272E",
                "font": {"color": "#FFFFFF", "size": 12},
                "align": "left",
            },
            "margin": {"l": 10, "r": 16, "t": 10, "b": 10},
            "dragmode": False,
        }
    )
