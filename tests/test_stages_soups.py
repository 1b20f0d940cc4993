"""What the soup stage and the studies ask for, from the settings of a run."""

from types import SimpleNamespace

import pytest
from report.report_records import a_soup
from samples import ingredient
from torch import nn

from pipeline.stages.building import soup_context, soup_request
from pipeline.stages.soup import stage_methods


def a_run(methods=(), model=None, metric="accuracy", **settings):
    soup = SimpleNamespace(methods=list(methods), settings=settings, include_initialization=False)
    config = SimpleNamespace(soup=soup, seed=0, data=SimpleNamespace(shifts={}, metric=metric))
    return SimpleNamespace(config=config, build_model=lambda: lambda: model)


def test_a_network_with_batchnorm_has_a_row_of_what_renewing_does_alone():
    methods = ["uniform", "best-individual", "greedy"]
    normed = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    renewed = ["uniform", "best-individual", "best-individual-renewed", "greedy"]
    assert stage_methods(a_run(methods, normed)) == renewed
    assert stage_methods(a_run(renewed, normed)) == renewed
    assert stage_methods(a_run(methods, nn.Linear(2, 2))) == methods
    assert stage_methods(a_run(["greedy"], normed)) == ["greedy"]


@pytest.mark.parametrize("method", ["mehl-plus-greedy", "wise-ft"])
def test_a_soup_that_starts_from_greedy_is_another_one_with_other_settings_of_greedy(method):
    rows = [ingredient(0), ingredient(1)]

    def asked(name, **settings):
        return soup_request(a_run(**settings).config, "float32", rows, name, [0, 1], 1.0)

    default, rejecting = asked(method), asked(method, greedy={"ties": "reject"})
    assert default.key == asked(method, greedy={"ties": "accept"}).key
    assert rejecting.key != default.key
    assert rejecting.settings_of["greedy"]["ties"] == "reject"
    assert asked("uniform").key == asked("uniform", greedy={"ties": "reject"}).key


def test_a_soup_in_another_arithmetic_is_another_one_and_those_from_before_are_those_in_float32():
    rows = [ingredient(0), ingredient(1)]
    full, lower = (soup_request(a_run().config, name, rows, "uniform", [0, 1], 1.0) for name in ("float32", "bfloat16"))
    assert lower.key != full.key
    assert full.key == "6b90f467e0cdc614368851de553dc457638fbc8f71400caf994a75631a1102c5", (
        "as an earlier version remembered it"
    )


def test_a_soup_by_another_metric_is_another_one():
    rows = [ingredient(0), ingredient(1)]
    one, other = (
        soup_request(a_run(metric=name).config, "float32", rows, "greedy", [0, 1], 1.0)
        for name in ("accuracy", "macro_f1")
    )
    assert (one.metric, other.metric) == ("accuracy", "macro_f1")
    assert one.key != other.key


def test_soups_know_the_trials_by_what_decides():
    run = SimpleNamespace(
        **vars(a_run()), sweep=None, splits_ref=None, cluster=SimpleNamespace(device="cpu"), unfinished_soups=None
    )
    run.config.soup.damaged, run.build_model = "stop", lambda: None
    rows = [ingredient(0), ingredient(1, val_score=-0.25), ingredient(2, val_accuracy=None, status="failed")]
    assert soup_context(run, rows).val_scores == {0: 0.9, 1: -0.25}


def test_the_champion_is_the_best_by_what_decides():
    by_accuracy = [a_soup("uniform", select_accuracy=0.9), a_soup("greedy", select_accuracy=0.8)]
    assert max(by_accuracy, key=lambda row: row.rank).method == "uniform"
    scores = [{"val_score": 0.1, "select_score": -0.2}, {"val_score": 0.1, "select_score": -0.1}]
    scored = [row.model_copy(update=columns) for row, columns in zip(by_accuracy, scores, strict=True)]
    assert max(scored, key=lambda row: row.rank).method == "greedy"
    without_select = [
        a_soup(name, val_accuracy=accuracy, select_accuracy=None, val_score=score)
        for name, accuracy, score in (("uniform", 0.9, 0.3), ("greedy", 0.8, 0.4))
    ]
    assert max(without_select, key=lambda row: row.rank).method == "greedy"
