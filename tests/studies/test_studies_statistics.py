"""Tests of significance and the cost ratio, against values worked out by hand."""

import numpy as np
import pytest

from pipeline.studies.statistics import Curve, accuracy_difference, cost_ratio, mcnemar, paired_interval


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


def curve(*points, images=1000):
    """Soups of so many hours, each with the first images right."""
    hours, shares = zip(*points, strict=True)
    return Curve(np.array(hours, dtype=float), np.array([np.arange(images) < share * images for share in shares]))


GREEDY = curve((1, 0.70), (2, 0.72), (3, 0.72), (4, 0.71))


def test_the_cost_ratio_is_taken_at_the_highest_accuracy_that_both_reach():
    found = cost_ratio([curve((1, 0.71), (2, 0.73), (4, 0.74))], [GREEDY])
    assert (found.accuracy, found.hours, found.baseline_hours, found.ratio.estimate) == (0.72, 2, 2, 1)
    faster = cost_ratio([curve((0.5, 0.72), (1, 0.71), (4, 0.74))], [GREEDY])
    assert (faster.hours, faster.baseline_hours, faster.ratio.estimate) == (0.5, 2, 4)
    never = cost_ratio([curve((1, 0.60), (4, 0.70))], [GREEDY])
    assert (never.accuracy, never.hours, never.baseline_hours, never.ratio.estimate) == (0.70, 4, 1, 0.25)


def test_the_cost_ratio_turns_over_with_the_methods():
    ours = curve((1, 0.71), (3, 0.73), (4, 0.74))
    there, back = cost_ratio([ours], [GREEDY]).ratio, cost_ratio([GREEDY], [ours]).ratio
    assert (there.estimate, there.low, there.high) == pytest.approx((1 / back.estimate, 1 / back.high, 1 / back.low))


def test_the_cost_ratio_of_repeated_curves_is_that_of_their_mean_hours():
    ours, theirs = [curve((1, 0.72)), curve((3, 0.72))], [curve((2, 0.72)), curve((10, 0.72))]
    found = cost_ratio(ours, theirs).ratio
    assert found.estimate == 3
    assert (found.low, found.high) == pytest.approx((2, 10 / 3))  # one pair or the other alone


def test_the_interval_of_the_cost_ratio_knows_when_images_decide():
    """Greedy's second soup is better by one image: in every other resampling it is not needed."""
    right = np.arange(1000)
    theirs = Curve(np.array([1.0, 5.0]), np.stack([right < 720, (right >= 3) & (right < 724)]))
    found = cost_ratio([curve((1, 0.74))], [theirs]).ratio
    assert (found.estimate, found.low, found.high) == (5, 1, 5)
