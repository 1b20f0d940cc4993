import dataclasses

import numpy as np
from samples import ingredient, run_record

from pipeline.records import CoefficientRecord, CostRecord, SoupRecord
from pipeline.soup_requests import RequestedIngredient, SoupRequest
from pipeline.studies import BuiltSoup, StudyInputs
from pipeline.studies.ablation import ablations
from pipeline.studies.cost_accuracy import CostAccuracySettings, cost_points, cost_ratios, with_gains
from pipeline.studies.elimination import EliminationSettings, eliminations
from pipeline.studies.statistics import Predicted
from pipeline.studies.wise_ft import WiseFtSettings, interpolations

ACCURACIES = [0.5, 0.9, 0.7, None, 0.8]  # the fourth trial failed
TRIALS = [
    ingredient(index, val_accuracy=accuracy, status="failed" if accuracy is None else "finished", gpu_hours=10**index)
    for index, accuracy in enumerate(ACCURACIES)
]


def request(method, trial_indices, gpu_hours):
    ingredients = tuple(RequestedIngredient(index, f"sha-{index}") for index in trial_indices)
    return SoupRequest(method, ingredients, gpu_hours, {"block_size": 18, "layers": "tensor"}, seed=4)


def inputs(settings, coefficients=None):
    return StudyInputs(
        settings, run_record(), TRIALS, [], request, read_coefficients=(coefficients or {}).get, read_predictions=None
    )


def without(top):
    return inputs(EliminationSettings.model_construct(top=top))


def lines(coefficients, alphas):
    return inputs(WiseFtSettings.model_construct(methods=list(coefficients), alphas=alphas), coefficients)


A_SOUP = SoupRecord(
    method="wise-ft", num_ingredients=4, num_selected=2, val_accuracy=0.5, select_accuracy=None, test_accuracy=0.4,
    gpu_hours=3, construction_seconds=1.5, epochs=2, peak_memory_bytes=7, peak_memory_kind="cuda",
)  # fmt: skip
WHOLE = {method: request(method, (0, 1, 2, 4), 11111) for method in ("greedy", "mehl-plus")}


def test_the_best_ingredients_are_eliminated_and_the_soup_of_all_is_beside_it():
    found = eliminations(without([2, 1, 4]))
    assert [(one.method, one.value, one.request.trial_indices, one.is_default) for one in found[:3]] == [
        ("greedy", 0, (0, 1, 2, 4), True),
        ("greedy", 1, (0, 2, 4), False),
        ("greedy", 2, (0, 2), False),
    ]
    assert [(one.method, one.value) for one in found[3:]] == [("mehl-plus", 0), ("mehl-plus", 1), ("mehl-plus", 2)]
    assert found[0].request == WHOLE["greedy"]  # the soup that is there already


def test_the_best_ingredients_are_those_by_what_decides():
    scores = dict(zip((0, 1, 2, 4), (0.2, -0.1, 0.6, 0.3), strict=True))
    rows = [row.model_copy(update={"val_score": scores.get(row.trial_index, row.val_accuracy)}) for row in TRIALS[:3]]
    found = eliminations(dataclasses.replace(without([1]), ingredients=rows))
    assert found[1].request.trial_indices == (0, 1)


def test_one_setting_at_a_time_is_changed_and_the_own_value_comes_first():
    values = {"mehl-plus": {"block_size": [2, 18, None], "seed": [4, 5]}}
    found = ablations(inputs(values))
    assert [one.name for one in found] == [
        "ablation/mehl-plus/block_size=18",
        "ablation/mehl-plus/block_size=2",  # none is all four ingredients, as is 18
        "ablation/mehl-plus/seed=4",
        "ablation/mehl-plus/seed=5",
    ]
    assert [one.is_default for one in found] == [True, False, True, False]
    assert found[0].request == found[2].request == WHOLE["mehl-plus"]
    assert found[1].request.settings == {"block_size": 2, "layers": "tensor"}
    assert found[3].request.seed == 5
    assert found[3].request.settings == WHOLE["mehl-plus"].settings
    built = A_SOUP.model_copy(update={"block_size": 4, "outer_iterations": 1, "inner_iterations": 20})
    row = found[0].record(BuiltSoup("x", built, "x"))
    assert (row.value, row.is_default, row.outer_iterations) == ("4", True, 1)


def test_a_line_holds_the_recorded_coefficients_with_theta0_last():
    rows = [
        CoefficientRecord(trial_index=trial, layer=layer, coefficient=trial + (0.5 if layer == "b" else 0))
        for layer in ("a", "b")
        for trial in (-1, 4, 0)
    ]
    (half, whole) = interpolations(lines({"greedy": rows}, [0.5, 1.0]))
    assert (half.name, half.is_default, whole.is_default) == ("wise-ft/greedy/alpha=0.5", False, True)
    assert half.request.settings == {"alpha": 0.5}
    assert half.request.recorded.layers == ("a", "b")
    assert half.request.recorded.coefficients == ((0, 0.5), (4, 4.5), (-1, -0.5))


def test_a_line_is_that_of_the_trials_that_were_mixed():
    rows = [
        CoefficientRecord(trial_index=trial, layer="model", coefficient=0.5) for trial in (0, 4)
    ]  # others were damaged
    (one,) = interpolations(lines({"greedy": rows}, [1.0]))
    assert one.request.trial_indices == (0, 4)
    (nothing_mixed,) = interpolations(lines({"mehl-plus": []}, [1.0]))
    assert nothing_mixed.request.trial_indices == (0, 1, 2, 4)
    assert nothing_mixed.request.recorded.coefficients == ((1.0,), (0.0,), (0.0,), (0.0,))


def with_correct(correct):
    """What a model predicted that got these images right."""
    labels = np.zeros(len(correct), dtype=np.int64)
    return Predicted(labels, np.where(correct, labels, 1))


def test_there_is_no_cost_ratio_where_trials_were_free_or_there_is_one_point():
    models = {"a": with_correct([True, False]), "b": with_correct([True, True])}
    points = [
        a_point("greedy", 1.0, "a"),
        a_point("greedy", 2.0, "b"),
        a_point("mehl", 1.0, "b"),
        a_point("mehl", 2.0, "b"),
    ]
    (found,) = cost_ratios(points, models)
    assert (found.method, found.baseline, found.accuracy, found.ratio) == ("mehl", "greedy", 1.0, 2.0)
    assert cost_ratios([row.model_copy(update={"gpu_hours": 0.0}) for row in points], models) == []
    assert cost_ratios(points[1:3], models) == []
    assert cost_ratios([row.model_copy(update={"cpu_core_hours": 3.0}) for row in points], models) == []


def test_a_point_knows_the_interval_of_its_gain():
    models = {"a": with_correct(np.arange(100) < 60), "b": with_correct(np.arange(100) < 70)}
    points = [a_point("greedy", 1.0, "a"), a_point("greedy", 2.0, "b"), a_point("mehl", 1.0, "b")]
    nothing = dict.fromkeys("ab", with_correct([]))
    first, second, other = with_gains(points, models, nothing)
    assert (first.gain_low, other.gain_low, second.select_gain_low) == (None, None, None)
    assert 0.02 < second.gain_low < 0.1 < second.gain_high < 0.18
    first, second, other = with_gains(points, nothing, models)
    assert (first.select_gain_low, other.select_gain_low, second.gain_low) == (None, None, None)
    assert 0.02 < second.select_gain_low < 0.1 < second.select_gain_high < 0.18


def a_point(method, hours, predictions):
    return CostRecord(
        method=method, num_ingredients=1, gpu_hours=hours, val_accuracy=0, select_accuracy=None, test_accuracy=0.5,
        predictions=predictions,
    )  # fmt: skip


def test_a_variant_is_a_row():
    (variant, *_) = eliminations(without([1]))
    row = variant.record(BuiltSoup("x", A_SOUP, "predictions/x.parquet"))
    assert (row.method, row.setting, row.value, row.is_default) == ("greedy", "eliminated", "0", True)
    assert (row.num_selected, row.test_accuracy, row.predictions) == (2, 0.4, "predictions/x.parquet")


def test_random_orders_pay_for_the_trials_before_them_and_end_at_the_same_soup():
    points = cost_points(inputs(CostAccuracySettings.model_construct(methods=["greedy"], step=3, orders=2)))
    assert [point.name.removeprefix("cost-accuracy/") for point in points] == [
        "greedy-3", "greedy-4", "greedy-3-order-1", "greedy-4-order-1", "greedy-3-order-2", "greedy-4-order-2",
    ]  # fmt: skip
    assert [(points[0].request.trial_indices, points[0].request.gpu_hours)] == [((0, 1, 2), 111)]
    assert {point.request.trial_indices for point in points[1::2]} == {(0, 1, 2, 4)}
    for point in points[2::2]:
        chosen = set(point.request.trial_indices)
        paid = {index for index in range(5) if str(int(point.request.gpu_hours))[::-1][index : index + 1] == "1"}
        assert len(chosen) == 3
        assert chosen <= paid <= chosen | {3}
    assert points == cost_points(inputs(CostAccuracySettings.model_construct(methods=["greedy"], step=3, orders=2)))


def test_nothing_is_eliminated_where_nothing_would_be_left():
    assert {one.value for one in eliminations(without([9]))} == {0}
    assert eliminations(without([])) == []  # no such study
