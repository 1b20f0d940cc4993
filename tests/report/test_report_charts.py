import numpy as np
import pytest
from report_records import a_failure, a_run, an_ingredient, the_results

from pipeline.records import CostRecord
from pipeline.report import charts, figures
from pipeline.report.cost_lines import cost_lines, order_bands
from pipeline.report.ingredients import trials
from pipeline.report.plot import HeatMap, LinePlot, Series
from pipeline.report.sections import plots_of
from pipeline.report.styles import GREY, style


def a_point(method: str, number: int, accuracy: float, order_seed: int | None = None) -> CostRecord:
    return CostRecord(
        method=method,
        num_ingredients=number,
        gpu_hours=number / 10,
        val_accuracy=accuracy,
        select_accuracy=None,
        test_accuracy=accuracy,
        order_seed=order_seed,
    )


def test_numbers_stand_above_the_highest_and_below_the_lowest_point():
    costs = [a_point("greedy", 8, 0.8), a_point("mehl", 8, 0.85), a_point("mehl-plus", 8, 0.9)]
    costs += [a_point("mehl-plus", 4, 0.6), a_point("greedy", 4, 0.7)]
    sides = {line.method: [point.label_side for point in line.points] for line in cost_lines(costs)}
    assert sides == {"mehl-plus": ["below", "above"], "mehl": [None], "greedy": ["above", "below"]}


def test_the_curve_is_drawn_in_search_order_only():
    costs = [a_point("greedy", 4, 0.7), a_point("greedy", 4, 0.9, order_seed=1)]
    (line,) = cost_lines(costs)
    assert [point.record.test_accuracy for point in line.points] == [0.7]


def test_the_cost_chart_has_a_line_per_method_with_its_numbers():
    figure = charts.draw(plots_of(the_results())["cost_accuracy"])
    assert [trace.name for trace in figure.data] == ["MEHL-Soup+", "Greedy soup", "Starting point"]
    assert "(0.0031 CPU core hours of its own)" in figure.data[2].customdata[0]
    assert (list(figure.data[2].x), list(figure.data[2].y)) == ([0], [pytest.approx(61.37)])
    assert list(figure.data[0].text) == ["4", "8", "12", "16"]
    assert figure.data[0].y[0] > 90
    assert figure.layout.xaxis.title.text == "Cost so far (CPU core hours)"


@pytest.mark.parametrize("name", plots_of(the_results()))
def test_the_file_says_the_same_as_the_page(name):
    plot = plots_of(the_results())[name]
    chart, axes = charts.draw(plot), figures.draw(plot).axes[0]
    assert axes.get_xlabel() == chart.layout.xaxis.title.text
    assert axes.get_ylabel() == chart.layout.yaxis.title.text
    if isinstance(plot, HeatMap):
        np.testing.assert_array_equal(
            np.array(chart.data[0].z, dtype=float), np.ma.filled(axes.get_images()[0].get_array(), np.nan)
        )
        return
    traces = [trace for trace in chart.data if trace.name]  # the others are bands
    for trace, line in zip(traces, axes.get_lines(), strict=True):
        assert trace.name == line.get_label()
        assert (list(trace.x), list(trace.y)) == (list(line.get_xdata()), list(line.get_ydata()))


def test_hovering_over_a_trial_shows_its_hyperparameters():
    rows = [an_ingredient(0, lr=3.2e-5, ema_decay=0.999, adapter="<i>LoRA</i>"), a_failure(1, "<b>bad</b>")]
    figure = charts.draw(plots_of(the_results(ingredients=rows, cost_accuracy=[]))["ingredients"])
    assert [trace.name for trace in figure.data] == ["Validation", "Test", "In no soup", "Champion (test)"]
    assert figure.data[0].customdata[0].split("<br>")[3:] == [
        "learning rate 3.2e-05, weight decay 0.01",
        "epochs 8, batch size 64",
        "label smoothing 0.05, mixup 0",
        "augmentation RandAugment n=2 m=9, seed 0",
        "EMA decay 0.999, adapter &lt;i&gt;LoRA&lt;/i&gt;",
    ]
    assert "&lt;b&gt;bad" in figure.data[2].customdata[0]
    assert figure.data[2].y[0] < min(figure.data[0].y)


def test_random_orders_are_a_dashed_mean_in_a_band():
    costs = [a_point("greedy", number, 0.7, order) for order in (None, 1) for number in (4, 8)]
    costs += [a_point("greedy", 4, 0.8, 2), a_point("greedy", 8, 0.7, 2)]
    bands = order_bands(costs, "greedy")
    # Search order is one of them, as in the ratio of costs.
    assert [(band.orders, round(band.mean, 3)) for band in bands] == [(3, 0.733), (3, 0.7)]
    assert 0.7 <= bands[0].low < 0.733 < bands[0].high < 0.8
    plot = plots_of(the_results(cost_accuracy=costs))["cost_accuracy"]
    figure = charts.draw(plot)
    assert [trace.name for trace in figure.data][:-1] == ["Greedy soup", None, "Greedy soup, mean of 3 orders"]
    assert figure.data[1].fill == "toself"


@pytest.mark.parametrize("name", ["cost_accuracy", "number_accuracy"])
def test_the_legend_is_in_the_order_of_the_lines_and_no_band_is_cut_by_the_axis(name):
    accuracies = {"greedy": (0.7, 0.72), "mehl": (0.8, 0.9), "mehl-plus": (0.75, 0.8)}
    costs = [
        a_point(method, number, accuracy, order)
        for order in (None, 1)
        for method, both in accuracies.items()
        for number, accuracy in zip((4, 8), both, strict=True)
    ]
    run = a_run(theta0_test_accuracy=None)  # no point at 0 that would keep the axis away from the bands
    plot = plots_of(the_results(run=run, cost_accuracy=costs))[name]
    figure = charts.draw(plot)
    methods = ["MEHL-Soup", "MEHL-Soup+", "Greedy soup"]
    named = [trace.name for trace in figure.data if trace.name]
    assert named == [label for method in methods for label in (method, f"{method}, mean of 2 orders")]
    for ends in (figure.layout.xaxis.range, figures.draw(plot).axes[0].get_xlim()):
        assert ends[0] < 0 < max(figure.data[0].x) < ends[1]


def test_settings_are_rows_with_the_one_of_the_run_filled():
    plot = plots_of(the_results())["ablation"]
    figure, axes = charts.draw(plot), figures.draw(plot).axes[0]
    names = ["block_size 2", "block_size 18 (run)", "block_size none", "seed 0", "seed 1", "seed 2"]
    assert list(figure.layout.yaxis.ticktext) == [label.get_text() for label in axes.get_yticklabels()] == names
    run, changed = figure.data
    assert (run.name, changed.name) == ("MEHL-Soup+ (run)", "MEHL-Soup+")
    assert (run.marker.symbol, list(run.y)) == ("diamond", [1])
    assert (changed.marker.symbol, list(changed.y)) == ("diamond-open", [0, 2, 3, 4, 5])
    assert changed.x[1] == pytest.approx(94.5)
    assert changed.error_x.array[1] > 0
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first row above


def test_the_shares_of_the_coefficients_sum_to_all():
    plot = plots_of(the_results())["coefficients"]
    assert [series.label for series in plot.series] == ["MEHL-Soup+"]  # one value per layer and ingredient
    assert sum(plot.series[0].y) == pytest.approx(100)


def test_trials_are_put_in_search_order():
    rows = trials([an_ingredient(2), a_failure(1, "no"), an_ingredient(0, test_accuracy=None)])
    assert [row.trial_index for row in rows.finished] == [0, 2]
    assert [row.trial_index for row in rows.without] == [1]
    assert 0 <= rows.floor < 0.9


def test_methods_from_elsewhere_have_a_label_a_colour_and_a_marker_of_their_own():
    labels = {"greedy": "Gierig", **{f"mine-{number}": f"Mine {number}" for number in range(30)}}
    assert style("greedy", labels) == ("Gierig", *style("greedy", {})[1:])
    looks = {name: style(name, labels) for name in labels}
    assert looks["mine-3"].label == "Mine 3"
    assert len({look[1:] for look in looks.values()}) == len(labels)
    assert {look.colour for name, look in looks.items() if name != "greedy"}.isdisjoint({looks["greedy"].colour, GREY})
    assert style("mine-3", dict(reversed(labels.items()))) == looks["mine-3"]
    assert style("mine-3", {}).label == "mine-3"
    assert len({style(f"mine-{number}", {})[1:] for number in range(10)}) > 5
    figures.draw(LinePlot("all", "", "", "", [Series(*look, x=[0], y=[0]) for look in looks.values()]))
    charts.draw(LinePlot("all", "", "", "", [Series(*look, x=[0], y=[0]) for look in looks.values()]))
