from report_records import a_failure, a_run, a_sweep, an_ingredient, the_costs, the_soups

from pipeline.records import CostRecord
from pipeline.report.charts import cost_chart, ingredients_chart
from pipeline.report.figures import cost_figure
from pipeline.report.series import cost_lines, trials


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
    ingredients = a_sweep()
    figure = cost_chart(the_costs(ingredients), ingredients)
    assert [trace.name for trace in figure.data] == ["MEHL-Soup+", "Greedy soup"]
    assert list(figure.data[0].text) == ["4", "8", "12", "16"]
    assert figure.data[0].y[0] > 90
    assert figure.layout.xaxis.title.text == "Cost so far (CPU core hours)"


def test_the_file_says_the_same_as_the_page():
    ingredients = a_sweep(device="cuda")
    costs = the_costs(ingredients)
    chart, axes = cost_chart(costs, ingredients), cost_figure(costs, ingredients).axes[0]
    assert axes.get_xlabel() == chart.layout.xaxis.title.text == "Cost so far (GPU hours)"
    for trace, line in zip(chart.data, axes.get_lines(), strict=True):
        assert trace.name == line.get_label()
        assert list(trace.y) == list(line.get_ydata())


def test_hovering_over_a_trial_shows_its_hyperparameters():
    rows = [an_ingredient(0, lr=3.2e-5), a_failure(1, "<b>bad</b>")]
    figure = ingredients_chart(a_run(), rows, the_soups())
    assert [trace.name for trace in figure.data] == ["Validation", "Test", "No ingredient", "Champion (test)"]
    assert "lr 3.2e-05, weight decay 0.01" in figure.data[0].customdata[0]
    assert "&lt;b&gt;bad" in figure.data[2].customdata[0]
    assert figure.data[2].y[0] < min(figure.data[0].y)


def test_trials_are_put_in_search_order():
    rows = trials([an_ingredient(2), a_failure(1, "no"), an_ingredient(0, test_accuracy=None)])
    assert [row.trial_index for row in rows.finished] == [0, 2]
    assert [row.trial_index for row in rows.without] == [1]
    assert 0 <= rows.floor < 0.9
