"""What the soup stage and the studies ask for, from the settings of a run."""

from types import SimpleNamespace

import pytest
from samples import ingredient
from torch import nn

from pipeline.stages.building import soup_request
from pipeline.stages.soup import stage_methods


def a_run(methods=(), model=None, **settings):
    soup = SimpleNamespace(methods=list(methods), settings=settings, include_initialization=False)
    config = SimpleNamespace(soup=soup, seed=0, data=SimpleNamespace(shifts={}))
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
