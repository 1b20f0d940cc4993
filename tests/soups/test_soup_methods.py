"""What holds for every method, ours and those that others add."""

import dataclasses
import importlib
from dataclasses import dataclass

import pytest
import torch

from pipeline.errors import SoupError
from pipeline.soups import (
    METHODS,
    GreedySettings,
    Method,
    Soup,
    SoupInputs,
    accuracy_scorer,
    calling,
    nonzero_rows,
    soup_from_coefficients,
)
from pipeline.soups.greedy import build_greedy
from pipeline.testing import METHOD_CHECKS, check_method_gives_a_whole_soup, check_method_repeats


@dataclass(frozen=True)
class FirstSettings:
    models: int = 2


def first_soup(ingredients, settings):
    """The mean of the first few: a plain function."""
    coefficients = torch.zeros(len(ingredients), 1, dtype=torch.float64)
    selected = range(min(settings.models, len(ingredients)))
    coefficients[selected] = 1 / len(selected)
    weights = soup_from_coefficients(ingredients, coefficients, ("model",))
    return Soup("", weights, coefficients, ("model",), tuple(selected))


def build_half_way(inputs, settings):
    """Half way from theta0 to the mean: a builder."""
    count = len(inputs.ingredients)
    coefficients = torch.full((count, 1), 0.5 / count, dtype=torch.float64)
    weights = soup_from_coefficients(inputs.ingredients, coefficients, ("model",), inputs.theta0)
    return Soup("", weights, coefficients, ("model",), tuple(range(count)))


OUTSIDE = (
    Method("first", "First few", calling(first_soup), FirstSettings()),
    Method("half-way", "Half way", build_half_way, needs_theta0=True),
)


@pytest.fixture
def inputs(model, ingredients, fit):
    return SoupInputs(model=model, ingredients=ingredients, fit=fit, theta0=model.state_dict())


@pytest.fixture(params=[*METHODS.values(), *OUTSIDE], ids=lambda method: method.name)
def method(request):
    return request.param


def test_names_are_those_of_the_design():
    design = [
        "best-individual",
        "best-individual-renewed",
        "uniform",
        "greedy",
        "learned",
        "learned-plus",
        "hl",
        "hl-plus",
        "mehl",
        "mehl-plus",
        "mehl-plus-greedy",
        "ensemble",
        "greedy-ensemble",
        "wise-ft",
    ]
    assert [name for name in METHODS if name in design] == design


def test_lines_go_by_their_name_and_labels_tell_them_apart():
    assert [method.name for method in METHODS.values()] == list(METHODS)
    assert len({method.label for method in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("name", ["mehl-plus-greedy", "wise-ft"])
def test_what_starts_from_greedy_takes_its_settings(inputs, name, monkeypatch):
    given = []

    def recorded(inputs, settings):
        given.append(settings)
        return build_greedy(inputs, settings)

    module = importlib.import_module(f"pipeline.soups.{name.replace('-', '_')}")  # `wise_ft` is a function too
    monkeypatch.setattr(module, "build_greedy", recorded)
    settings = GreedySettings(order="random", ties="reject")
    assert METHODS[name].parts == ("greedy",)
    METHODS[name](dataclasses.replace(inputs, settings_of={"greedy": settings}))
    METHODS[name](inputs)
    assert given == [settings, GreedySettings()]


def test_soups_know_the_passes_that_trials_made_for_them(inputs):
    known = dataclasses.replace(inputs, accuracies=[0.5, 0.7, 0.6, 0.4, 0.3])
    names = ("best-individual", "greedy", "greedy-ensemble", "mehl-plus-greedy", "wise-ft")
    assert {name: METHODS[name](known).epochs_of_trials for name in names} == dict.fromkeys(names, 5)
    assert {name: METHODS[name](inputs).epochs_of_trials for name in names} == dict.fromkeys(names, 0)
    assert METHODS["mehl-plus"](known).epochs_of_trials == 0


def test_calling_hands_over_what_the_signature_asks_for(inputs):
    asked = {}

    def function(fit, seed=7, settings=None, ours="own default"):
        asked.update(fit=fit, seed=seed, settings=settings, ours=ours)

    calling(function)(inputs, "settings")
    assert asked == {"fit": inputs.fit, "seed": inputs.seed, "settings": "settings", "ours": "own default"}


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_every_method_keeps_its_contract(method, check, tmp_path):
    check(method, tmp_path)


def test_the_checks_find_what_is_wrong(tmp_path):
    def not_of_the_plane(inputs, settings):
        soup = METHODS["uniform"](inputs)
        return dataclasses.replace(soup, coefficients=soup.coefficients * 2)

    def other_weights(inputs, settings):
        soup = METHODS["uniform"](inputs)
        weights = {name: value * 1.01 for name, value in soup.state_dict.items()}
        return dataclasses.replace(soup, state_dict=weights)

    def by_chance(inputs, settings):
        coefficients = torch.rand(len(inputs.ingredients), 1, dtype=torch.float64).softmax(dim=0)
        weights = soup_from_coefficients(inputs.ingredients, coefficients, ("model",))
        return Soup("", weights, coefficients, ("model",), nonzero_rows(coefficients))

    for build, check in (
        (not_of_the_plane, check_method_gives_a_whole_soup),
        (other_weights, check_method_gives_a_whole_soup),
        (by_chance, check_method_repeats),
    ):
        with pytest.raises(AssertionError):
            check(Method("wrong", "Wrong", build), tmp_path)


@pytest.mark.parametrize(
    "wrong", [lambda c: c.T, lambda c: c[:, 0], lambda c: c.float()], ids=["(L, K)", "(K,)", "type"]
)
def test_wrong_coefficients_are_refused_by_the_name_of_the_method(inputs, wrong):
    def build(inputs, settings):
        soup = METHODS["uniform"](inputs)
        return dataclasses.replace(soup, coefficients=wrong(soup.coefficients))

    with pytest.raises(
        SoupError, match=r"^mine: its coefficients are torch\.float.* must be torch\.float64 of shape \(5, 1\)"
    ):
        Method("mine", "Mine", build)(inputs)


def test_learning_beats_the_uniform_soup(inputs):
    score = accuracy_scorer(inputs.model, inputs.fit)
    assert score(METHODS["mehl-plus"](inputs).state_dict) >= score(METHODS["uniform"](inputs).state_dict)
