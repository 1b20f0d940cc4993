"""What holds for every method, ours and those that others add."""

from dataclasses import dataclass

import pytest
import torch
from soup_models import Normed, fit_images, opened

from pipeline.soups import METHODS, Method, Soup, SoupInputs, accuracy_scorer, calling, soup_from_coefficients


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


def test_calling_hands_over_what_the_signature_asks_for(inputs):
    asked = {}

    def function(fit, seed=7, settings=None, ours="own default"):
        asked.update(fit=fit, seed=seed, settings=settings, ours=ours)

    calling(function)(inputs, "settings")
    assert asked == {"fit": inputs.fit, "seed": inputs.seed, "settings": "settings", "ours": "own default"}


def test_gives_a_whole_soup(method, inputs):
    soup = method(inputs)
    assert soup.method == method.name
    assert soup.coefficients.shape == (5, len(soup.layers))
    if not method.needs_theta0:
        torch.testing.assert_close(soup.coefficients.sum(dim=0), torch.ones(len(soup.layers), dtype=torch.float64))
    assert soup.selected
    assert soup.seconds > 0
    assert soup.peak_memory_bytes >= 0
    assert soup.peak_memory_kind == "anon"
    if soup.state_dict is None:
        return
    theta0 = inputs.theta0 if method.needs_theta0 else None
    again = soup_from_coefficients(inputs.ingredients, soup.coefficients, soup.layers, theta0)
    assert list(soup.state_dict) == list(inputs.ingredients.names)
    for name, tensor in soup.state_dict.items():
        assert torch.equal(tensor, again[name])
        assert tensor.dtype == inputs.ingredients.tensor(0, name).dtype


def test_same_seed_same_result(method, inputs):
    first, second = method(inputs), method(inputs)
    assert torch.equal(first.coefficients, second.coefficients)
    assert (first.selected, first.blocks, first.history) == (second.selected, second.blocks, second.history)


def test_leaves_the_callers_model_as_it_was(method, inputs):
    inputs.model.train()
    inputs.model.blocks[0].eval()
    inputs.model.head.requires_grad_(False)
    modes = [module.training for module in inputs.model.modules()]
    flags = [parameter.requires_grad for parameter in inputs.model.parameters()]
    method(inputs)
    assert [module.training for module in inputs.model.modules()] == modes
    assert [parameter.requires_grad for parameter in inputs.model.parameters()] == flags
    assert all(parameter.grad is None for parameter in inputs.model.parameters())


def test_one_ingredient_comes_back_as_it_is(method, inputs):
    if method.needs_theta0:
        pytest.skip("mixes with theta0")
    alone = inputs.ingredients.subset([2])
    soup = method(SoupInputs(model=inputs.model, ingredients=alone, fit=inputs.fit))
    assert soup.selected == (0,)
    if soup.state_dict is not None:
        assert all(torch.equal(soup.state_dict[name], alone.tensor(0, name)) for name in alone.names)


def test_reads_batches_as_well_as_tensors(method, inputs):
    images, labels = inputs.fit
    batches = [(images[:25], labels[:25]), (images[25:], labels[25:])]
    streamed = SoupInputs(model=inputs.model, ingredients=inputs.ingredients, fit=batches, theta0=inputs.theta0)
    assert method(streamed).coefficients.shape[0] == 5


def test_batchnorm_statistics_are_those_of_the_returned_soup(method, tmp_path):
    model, fit = Normed(), fit_images()
    ingredients = opened(tmp_path, model, 4)

    def recalibrate(loaded):
        norm = loaded.norm
        features = loaded.body(fit[0])
        norm.running_mean.copy_(features.mean(0).detach())
        norm.running_var.copy_(features.var(0).detach())

    inputs = SoupInputs(
        model=model, ingredients=ingredients, fit=fit, recalibrate=recalibrate, theta0=model.state_dict()
    )
    soup = method(inputs)
    if soup.state_dict is None or len(soup.selected) == 1:
        return
    body = torch.nn.functional.linear(fit[0], soup.state_dict["body.weight"], soup.state_dict["body.bias"])
    torch.testing.assert_close(soup.state_dict["norm.running_mean"], body.mean(0))
    assert soup.state_dict["norm.num_batches_tracked"].dtype == torch.int64


def test_learning_beats_the_uniform_soup(inputs):
    score = accuracy_scorer(inputs.model, inputs.fit)
    assert score(METHODS["mehl-plus"](inputs).state_dict) >= score(METHODS["uniform"](inputs).state_dict)
