"""Tests of significance and the cost ratio, against values worked out by hand."""

import numpy as np
import pytest

from pipeline.records import CostRecord
from pipeline.studies.statistics import accuracy_difference, cost_ratio, hours_to_reach, mcnemar, paired_interval


def answers(*counts):
    """Right or wrong: two models both right, only the first, only the second, both wrong, so many times."""
    both, first, second, neither = counts
    return (
        np.repeat([True, True, False, False], [both, first, second, neither]),
        np.repeat([True, False, True, False], [both, first, second, neither]),
    )


def test_mcnemar_is_the_exact_binomial_test_of_the_images_on_which_the_models_differ():
    # 2 * P(X <= 2) for X ~ B(12, 1/2) = 2 * (1 + 12 + 66) / 4096
    assert mcnemar(*answers(500, 10, 2, 88)) == pytest.approx(2 * 79 / 4096)
    assert mcnemar(*answers(0, 10, 2, 0)) == mcnemar(*answers(9000, 10, 2, 1000))
    assert mcnemar(*reversed(answers(500, 10, 2, 88))) == mcnemar(*answers(500, 10, 2, 88))


def test_mcnemar_of_equal_predictions_is_one():
    assert mcnemar(*answers(5, 0, 0, 5)) == 1


def test_difference_of_accuracy_is_that_of_the_means():
    first, second = answers(800, 60, 40, 100)
    found = accuracy_difference(np.stack([first, first]), np.stack([second, second]))
    assert found.estimate == pytest.approx(0.02)
    assert found.low < 0.02 < found.high


def test_interval_of_one_sweep_is_that_of_a_paired_proportion():
    first, second = answers(800, 60, 40, 100)
    found = accuracy_difference(first[None], second[None])
    error = np.std(first.astype(float) - second) / np.sqrt(len(first))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_the_interval_of_wins_and_losses_is_that_of_the_images():
    first, second = answers(800, 60, 40, 100)
    counted, drawn = paired_interval(60, 40, 1000), accuracy_difference(first[None], second[None])
    assert counted.estimate == pytest.approx(drawn.estimate)
    assert (counted.low, counted.high) == pytest.approx((drawn.low, drawn.high), abs=0.002)


def test_interval_grows_when_sweeps_disagree():
    first, second = answers(8000, 600, 400, 1000)
    agreeing = accuracy_difference(np.stack([first] * 3), np.stack([second] * 3))
    mixed = accuracy_difference(np.stack([first, first, second]), np.stack([second, second, first]))
    assert mixed.high - mixed.low > 1.5 * (agreeing.high - agreeing.low)


def test_interval_covers_the_truth():
    """Sweeps and images both random: the interval must hold the true mean in about 95 % of repetitions."""
    generator, hits = np.random.default_rng(0), 0
    for seed in range(60):
        per_sweep, per_image = generator.normal(0, 0.01, (8, 1)), generator.normal(0, 0.1, (1, 400))
        chance = np.clip(0.5 + 0.03 + per_sweep + per_image, 0, 1)
        won = generator.random((8, 400)) < chance
        found = accuracy_difference(won, ~won, seed)
        hits += found.low <= 0.06 <= found.high
    assert hits >= 53


def point(method, hours, accuracy):
    return CostRecord(
        method=method, num_ingredients=1, gpu_hours=hours, val_accuracy=0, select_accuracy=None, test_accuracy=accuracy
    )


CURVES = [
    *(point("greedy", hours, accuracy) for hours, accuracy in [(1, 0.70), (2, 0.72), (3, 0.72), (4, 0.71)]),
    *(point("mehl-plus", hours, accuracy) for hours, accuracy in [(1, 0.71), (2, 0.73), (4, 0.74)]),
]


def test_hours_to_reach_takes_the_cheapest_soup_that_is_good_enough():
    assert hours_to_reach(CURVES, 0.725) == 2
    assert hours_to_reach(CURVES, 0.75) is None


def test_cost_ratio_compares_at_the_best_accuracy_of_the_baseline():
    assert cost_ratio(CURVES, "mehl-plus", "greedy") == 1
    faster = [*CURVES, point("mehl-plus", 0.5, 0.72)]
    assert cost_ratio(faster, "mehl-plus", "greedy") == 4
    assert cost_ratio(CURVES, "greedy", "mehl-plus") is None
