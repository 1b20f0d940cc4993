"""Statistics by another metric than accuracy: the paired bootstrap."""

import dataclasses

import numpy as np
import pytest
from samples import run_record

from pipeline.metrics import METRICS
from pipeline.records import CostRecord
from pipeline.studies import StudyInputs
from pipeline.studies.comparisons import compare_methods
from pipeline.studies.cost_accuracy import cost_ratios, with_gains
from pipeline.studies.statistics import Predicted, bootstrap_p

IMAGES = 300


def shares(labels, predictions):
    """Accuracy, as a score of which nothing is known."""
    return float((labels == predictions).mean())


def f1(labels, predictions):
    return METRICS["f1"].score(labels, predictions, 2)


@pytest.fixture(scope="module")
def models():
    """Of 300 images a tenth is of the second class; b finds more of it than a, and c no more."""
    generator = np.random.default_rng(0)
    labels = (np.arange(IMAGES) < IMAGES // 10).astype(np.int64)
    found = {"a": 0.3, "b": 0.8, "c": 0.3}
    return {
        name: Predicted(labels, np.where(labels == 1, generator.random(IMAGES) < share, 0).astype(np.int64))
        for name, share in found.items()
    }


def points(orders=1):
    return [
        CostRecord(
            method=method, num_ingredients=number, gpu_hours=float(number), predictions=name,
            val_accuracy=0.5, select_accuracy=0.5, test_accuracy=0.5, order_seed=seed,
        )
        for seed in (None, *range(1, orders))
        for method, names in (("greedy", "aab"), ("mehl", "cbb"))
        for number, name in enumerate(names, start=1)
    ]  # fmt: skip


def test_by_accuracy_as_a_score_the_bootstrap_says_what_the_exact_methods_say(models):
    exact, by_score = compare_methods(models), compare_methods(models, shares)
    for one, other in zip(exact, by_score, strict=True):
        assert (one.method, one.baseline, one.wins, one.losses) == (
            other.method, other.baseline, other.wins, other.losses,
        )  # fmt: skip
        assert other.difference == pytest.approx(one.difference)
        assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=0.01)
        assert (one.p_value < 0.05) == (other.p_value < 0.05)
    assert cost_ratios(points(2), models, shares) == cost_ratios(points(2), models)
    for one, other in zip(
        with_gains(points(), models, models), with_gains(points(), models, models, shares), strict=True
    ):
        known = (one.gain_low, one.gain_high, one.select_gain_low)
        assert (other.gain_low, other.gain_high, other.select_gain_low) == (
            (None, None, None) if None in known else pytest.approx(known, abs=0.01)
        )


def test_differences_gains_and_ratios_are_of_the_metric(models):
    scores = {name: f1(model.labels, model.predictions) for name, model in models.items()}
    for row in compare_methods(models, f1):
        assert row.difference == pytest.approx(scores[row.method] - scores[row.baseline])
        assert row.low <= row.difference <= row.high
    first, second, third, *_ = with_gains(points(), models, models, f1)
    assert first.gain_low is None
    assert (second.gain_low, second.gain_high) == (0, 0)
    assert third.gain_low < scores["b"] - scores["a"] < third.gain_high
    assert third.gain_low > 0.1, "far more than of accuracy, which rises by some points"
    (ratio,) = cost_ratios(points(), models, f1)
    assert (ratio.best_accuracy, ratio.baseline_best_accuracy, ratio.accuracy) == (scores["b"],) * 3
    assert (ratio.gpu_hours, ratio.baseline_gpu_hours, ratio.ratio) == (2, 3, 1.5)


def test_images_that_are_not_there_give_no_gain(models):
    nothing = dict.fromkeys("abc", Predicted(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)))
    rows = with_gains(points(), models, nothing, f1)
    assert all(row.select_gain_low is None for row in rows)
    assert rows[1].gain_low is not None


def test_the_p_value_of_the_bootstrap():
    assert bootstrap_p(np.zeros(99)) == 1
    assert bootstrap_p(np.ones(99)) == pytest.approx(2 / 100)
    assert bootstrap_p(np.array([-1.0] * 9 + [1.0] * 90)) == pytest.approx(2 * 10 / 100)


def test_a_study_gets_the_metric_of_the_run():
    inputs = StudyInputs(None, run_record(), [], [], None, None, None)
    assert inputs.score is None
    run = run_record(metric="f1", class_names=["no", "yes"])
    labels = np.array([0, 1, 1])
    assert dataclasses.replace(inputs, run=run).score(labels, np.array([0, 1, 0])) == pytest.approx(2 / 3)
