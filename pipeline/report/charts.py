"""The charts of the page, drawn with plotly.

Text and grid are given in greys that can be read on light and on dark; the page's style sheet sharpens them.
"""

from __future__ import annotations

import json

import plotly.graph_objects as go

from pipeline.report.plot import HeatMap, LinePlot, Plot, Series
from pipeline.report.styles import GREY

_CONFIG = {"responsive": True, "displayModeBar": False}
_ON_COUNTS = "#1C2128"  # digits on the colours of counts
_SIDES = {"above": "top center", "below": "bottom center", None: "top center"}


def draw(plot: Plot) -> go.Figure:
    """The plot as a plotly figure."""
    return _draw_lines(plot) if isinstance(plot, LinePlot) else _draw_map(plot)


def script(chart_id: str, figure: go.Figure) -> str:
    """The JavaScript statement that draws ``figure`` into the element ``chart_id``; safe inside a script element."""
    # Plotly's encoder may be orjson or json; only the first escapes angle brackets.
    spec = figure.to_json().replace("<", "\\u003c").replace(">", "\\u003e")
    draw = f"Plotly.newPlot({json.dumps(chart_id)}, spec.data, spec.layout, {json.dumps(_CONFIG)})"
    return f"{{ const spec = {spec}; {draw}; }}"


def _draw_lines(plot: LinePlot) -> go.Figure:
    figure = empty(plot.x_title, plot.y_title)
    for series in plot.series:
        if series.band and series.low:
            _add_band(figure, series)
        modes = ["lines"] * (series.line is not None) + ["markers"] * series.points + ["text"] * bool(series.numbers)
        bars = series.low and not series.band
        x, y = list(series.x), list(series.y)
        figure.add_scatter(
            x=y if plot.ticks else x,
            y=x if plot.ticks else y,
            name=series.label,
            legendgroup=series.label,
            mode="+".join(modes),
            text=[number if side else "" for number, side in zip(series.numbers, series.sides, strict=True)],
            textposition=[_SIDES[side] for side in series.sides] or None,
            textfont={"color": GREY},
            line={
                "color": series.colour,
                "width": 2.5 if series.points else 2,
                "dash": "dash" if series.line == "dash" else "solid",
                "shape": "hvh" if series.line == "step" else "linear",
            },
            marker={"symbol": series.symbol, "size": 9, "color": series.colour, "line": _outline(series)},
            **({"error_x" if plot.ticks else "error_y": _bars(series)} if bars else {}),
            cliponaxis=False,
            customdata=list(series.hover) or None,
            hovertemplate="%{customdata}<extra></extra>" if series.hover else None,
        )
    if plot.ticks:
        figure.update_layout(legend={"x": 1, "xanchor": "right"})  # so that it may reach over the names of the rows
        figure.update_xaxes(title={"text": plot.y_title})
        figure.update_yaxes(title={"text": plot.x_title}, ticktext=list(plot.ticks))
        figure.update_yaxes(tickvals=list(range(len(plot.ticks))), range=[len(plot.ticks) - 0.5, -0.5])
    elif plot.whole_x:
        figure.update_xaxes(tickformat="d")
    if ends := plot.x_range():
        figure.update_xaxes(range=list(ends))
    return figure


def _draw_map(plot: HeatMap) -> go.Figure:
    figure = empty(plot.x_title, plot.y_title)
    figure.update_layout(margin={"b": 50})  # beside a legend of colours plotly.js makes too little room for the title
    low, high = plot.span()
    figure.add_heatmap(
        z=plot.drawn(),
        x=list(range(len(plot.columns))),
        y=list(range(len(plot.rows))),
        zmin=low,
        zmax=high,
        colorscale=plot.scale(),
        showscale=not plot.counts,
        texttemplate="%{z}" if plot.counts else None,
        textfont={"color": _ON_COUNTS, "size": 12},
        colorbar={
            "title": {"text": plot.value_title, "side": "top"},
            # Above the map: beside it, it would leave no room for the map on a phone.
            **{"orientation": "h", "y": 1.02, "yanchor": "bottom", "thickness": 10, "outlinewidth": 0},
        },
        customdata=[[[row, column] for column in plot.columns] for row in plot.rows],
        hovertemplate=f"{plot.y_title} %{{customdata[0]}}<br>{plot.x_title} %{{customdata[1]}}"
        "<br>%{z:.4~f}<extra></extra>",
    )
    columns, rows = plot.ticks(plot.columns), plot.ticks(plot.rows)
    guides = plot.counts  # through cells, most of which are blank
    figure.update_xaxes(showgrid=guides, tickangle=0, tickfont={"size": 9})
    figure.update_xaxes(tickvals=list(columns), ticktext=list(columns.values()), range=[-0.5, len(plot.columns) - 0.5])
    figure.update_yaxes(showgrid=guides, tickvals=list(rows), ticktext=list(rows.values()))
    figure.update_yaxes(range=[len(plot.rows) - 0.5, -0.5])
    return figure


def _add_band(figure: go.Figure, series: Series) -> None:
    """The intervals of a line as a light area behind it."""
    red, green, blue = (int(series.colour[start : start + 2], 16) for start in (1, 3, 5))
    figure.add_scatter(
        x=[*series.x, *reversed(series.x)],
        y=[*series.high, *reversed(series.low)],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.15)",
        line={"width": 0},
        mode="lines",
        legendgroup=series.label,
        showlegend=False,
        hoverinfo="skip",
    )


def _bars(series: Series) -> dict[str, object]:
    return {
        "array": [high - y for high, y in zip(series.high, series.y, strict=True)],
        "arrayminus": [y - low for low, y in zip(series.low, series.y, strict=True)],
        "thickness": 1.2,
    }


def _outline(series: Series) -> dict[str, object]:
    """Open and thin markers are drawn by their outline alone."""
    return {"width": 2, "color": series.colour} if series.symbol.endswith(("-open", "-thin")) else {"width": 0}


def empty(x_title: str, y_title: str) -> go.Figure:
    """A figure with titled axes on a transparent ground, the legend above, dragging left to the page's scrolling."""
    axis = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False, "exponentformat": "none", "automargin": True}
    return go.Figure(
        layout={
            "template": {},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": GREY, "family": "system-ui, sans-serif", "size": 13},
            "xaxis": {**axis, "title": {"text": x_title}},
            # With a distance from the names of ticks the title keeps clear of long ones.
            "yaxis": {**axis, "title": {"text": y_title, "standoff": 8}},
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
