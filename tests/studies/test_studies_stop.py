"""The rule that ends a sweep before its last trial."""

import pytest
from samples import hyperparameters, ingredient

from pipeline.config import StopConfig
from pipeline.records import CostRecord
from pipeline.studies import gains_per_hours, no_more_gain, over_budget


def curve(method, *points):
    """Of pairs: hours, and the upper end of the interval of the gain on `select`."""
    return [
        CostRecord(
            method=method, num_ingredients=4 * number, gpu_hours=hours, val_accuracy=0.9, select_accuracy=0.9,
            test_accuracy=0.9, select_gain_low=-0.01, select_gain_high=high,
        )
        for number, (hours, high) in enumerate(points, 1)
    ]  # fmt: skip


def test_the_next_trial_must_fit_into_the_budget_by_what_an_epoch_has_cost():
    # Two epochs of each trial cost half an hour; of those that failed nothing is learned, and their hours are spent.
    rows = [ingredient(0), ingredient(1), ingredient(2, status="failed", gpu_hours=1.0)]
    rule, four = StopConfig(max_gpu_hours=4.0), hyperparameters(epochs=4)
    assert over_budget(rule, None, rows, [], four) is None  # 2 + 1
    assert over_budget(rule, None, rows, [four], four) is None  # 2 + 1 + 1
    assert over_budget(rule, None, rows, [four, hyperparameters(epochs=1)], four) == (
        "search.stop.max_gpu_hours: the 5 trials so far come to 3.25 CPU core hours, and the next would make it 4.25, "
        "over 4"
    )


def test_a_price_is_a_budget_too():
    rows = [ingredient(0), ingredient(1)]
    rule = StopConfig(max_price=2.5)
    assert over_budget(rule, 1.5, rows, [], hyperparameters()) is None
    reason = over_budget(rule, 2.0, rows, [], hyperparameters())
    assert reason == "search.stop.max_price: the 2 trials so far come to 2, and the next would make it 3, over 2.5"


def test_a_sweep_in_which_no_trial_finishes_ends_when_its_budget_is_spent():
    rows = [ingredient(0, status="failed", gpu_hours=9.0), ingredient(1, status="failed", gpu_hours=1.0)]
    rule = StopConfig(max_gpu_hours=9.5)
    assert over_budget(rule, None, rows[:1], [hyperparameters()], hyperparameters()) is None
    assert over_budget(rule, None, rows, [], hyperparameters()) == (
        "search.stop.max_gpu_hours: the 2 trials so far come to 10 CPU core hours, over 9.5, and none of them finished"
    )


def test_a_sweep_ends_when_the_gain_may_not_be_what_is_asked_for():
    points = curve("greedy", (1.0, None), (2.0, 0.004), (4.0, 0.004))
    rule = StopConfig(min_gain=0.005, patience=2)
    assert gains_per_hours(rule, points) == pytest.approx([0.004, 0.002])
    assert no_more_gain(rule, points[:2]) is None
    reason = no_more_gain(rule, points)
    assert reason is not None
    assert (
        "last 2 steps up to 12 ingredients, soups gained at most (greedy +0.40) points on select in 1 hours" in reason
    )
    assert no_more_gain(StopConfig(min_gain=0.004, patience=2), points) is None
    assert no_more_gain(StopConfig(min_gain=0.003, patience=1), points) is not None
    assert no_more_gain(StopConfig(min_gain=0.005, per_gpu_hours=2, patience=2), points) is None
    assert no_more_gain(StopConfig(max_gpu_hours=1.0), points) is None


def test_every_method_must_have_ceased_to_gain():
    poor, good = curve("greedy", (1, None), (2, 0.0)), curve("mehl-plus", (1, None), (2, 0.02))
    rule = StopConfig(min_gain=0.01, patience=1)
    assert no_more_gain(rule, poor) is not None
    assert no_more_gain(rule, [*poor, *good]) is None
    assert no_more_gain(rule, [*poor, *curve("mehl-plus", (1, None))]) is None  # not known yet
    assert no_more_gain(rule, []) is None


@pytest.mark.parametrize("points", [[(1, None), (1, 0.0)], [(1, None), (2, None)]])
def test_where_hours_or_gains_are_not_known_a_sweep_goes_on(points):
    assert no_more_gain(StopConfig(min_gain=1.0, patience=1), curve("greedy", *points)) is None
