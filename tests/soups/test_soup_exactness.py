"""MEHL-Soup+ against Algorithm 1, written out naively, and Eq. 4."""

import pytest
import torch
from soup_models import Classifier, fit_images, opened
from torch.func import functional_call
from torch.nn import functional

from pipeline.errors import SoupError
from pipeline.soups import METHODS, MehlSettings, SoupInputs, mehl_soup, soup_from_coefficients
from pipeline.soups.layers import module_of


def algorithm_1(model, thetas, fit, blocks, steps, rate, layer_of, decentralize, weights=None):
    """Algorithm 1 of the paper over a graph of all ingredients in float64; returns alpha per layer and the soup.

    The centre is the mean or, with ``weights``, another soup.
    """
    images, labels = fit
    count = len(thetas)
    weights = weights or [1 / count] * count
    centre = {name: sum(w * theta[name] for w, theta in zip(weights, thetas, strict=True)) for name in thetas[0]}
    origin = centre if decentralize else {name: torch.zeros_like(tensor) for name, tensor in centre.items()}
    start = 0.0 if decentralize else 1 / count
    alpha = {layer: torch.full((count,), start, dtype=torch.float64) for layer in set(layer_of.values())}

    def mixed(values):
        return {
            name: origin[name] + sum(values[layer][k] * (thetas[k][name] - origin[name]) for k in range(count))
            if (layer := layer_of.get(name))
            else thetas[0][name]
            for name in centre
        }

    for block in blocks:
        for _ in range(steps):
            tracked = {layer: values.clone().requires_grad_(True) for layer, values in alpha.items()}
            loss = functional.cross_entropy(functional_call(model, mixed(tracked), (images,)), labels)
            gradients = dict(zip(tracked, torch.autograd.grad(loss, list(tracked.values())), strict=True))
            for layer, values in alpha.items():
                for k in block:
                    values[k] -= rate * gradients[layer][k]
    return alpha, mixed(alpha)


def to_the_letter(fit, **settings):
    return MehlSettings(
        inner_iterations=4, batch_size=len(fit[1]), learning_rate=0.2, optimizer="sgd", schedule="constant", **settings
    )


LAYERS = {"tensor": lambda name: name, "module": module_of, "model": lambda name: "model"}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("block_size", "outer", "decentralize"), [(None, 1, True), (None, 3, True), (2, 5, True), (2, 4, False)]
)
def test_follows_algorithm_1(tmp_path, kind, block_size, outer, decentralize):
    model = Classifier().double().eval()
    ingredients = opened(tmp_path, model, 5)
    fit = fit_images(dtype=torch.float64)
    settings = to_the_letter(fit, block_size=block_size, outer_iterations=outer, layers=kind, decentralize=decentralize)
    soup = mehl_soup(model, ingredients, fit, settings, seed=7)

    thetas = [ingredients.state_dict(k) for k in range(5)]
    layer_of = {name: LAYERS[kind](name) for name in ingredients.varying}
    alpha, expected = algorithm_1(model, thetas, fit, soup.blocks, 4, 0.2, layer_of, decentralize)
    table = torch.stack([alpha[layer] for layer in soup.layers], dim=1)
    if decentralize:
        table = 1 / 5 + table - table.mean(dim=0)
        torch.testing.assert_close(soup.coefficients.sum(dim=0), torch.ones(len(soup.layers), dtype=torch.float64))
    assert table.std() > 1e-3, "the coefficients must have moved for this to show anything"
    torch.testing.assert_close(soup.coefficients, table, rtol=0, atol=1e-9)
    for name, tensor in soup.state_dict.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("block_size", [None, 2])
def test_the_greedy_soup_may_be_the_centre(tmp_path, block_size):
    model = Classifier().double().eval()
    ingredients, fit = opened(tmp_path, model, 5), fit_images(dtype=torch.float64)
    settings = to_the_letter(fit, block_size=block_size)
    inputs = SoupInputs(model, ingredients, fit)
    greedy, soup = METHODS["greedy"](inputs), METHODS["mehl-plus-greedy"](inputs, settings)

    centre = greedy.coefficients[:, 0]
    assert 0 < (centre == 0).sum() < 5, "a mean would show nothing"
    thetas = [ingredients.state_dict(k) for k in range(5)]
    layer_of = {name: name for name in ingredients.varying}
    alpha, expected = algorithm_1(model, thetas, fit, soup.blocks, 4, 0.2, layer_of, True, centre.tolist())
    table = torch.stack([alpha[layer] for layer in soup.layers], dim=1)
    table = table + centre[:, None] * (1 - table.sum(dim=0))
    torch.testing.assert_close(soup.coefficients, table, rtol=0, atol=1e-9)
    for name, tensor in soup.state_dict.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-9)
    assert soup.epochs == greedy.epochs + len(soup.history)  # a batch holds all images


def test_micro_batches_add_up_to_the_batch(tmp_path):
    model = Classifier().double()
    ingredients, fit = opened(tmp_path, model, 4), fit_images(dtype=torch.float64)
    whole = mehl_soup(model, ingredients, fit, MehlSettings(inner_iterations=5, batch_size=30))
    parts = mehl_soup(model, ingredients, fit, MehlSettings(inner_iterations=5, batch_size=30, micro_batch_size=7))
    torch.testing.assert_close(whole.coefficients, parts.coefficients, rtol=0, atol=1e-12)


class Crowded(Classifier):
    """Runs on a device that has no room for more than so many images."""

    room = 4

    def forward(self, images):
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(images)


@pytest.mark.parametrize("method", ["mehl-plus", "learned-plus"])
def test_where_memory_runs_out_micro_batches_are_halved_until_they_fit(tmp_path, method):
    model, build = Crowded(), METHODS[method]
    inputs = SoupInputs(model=model, ingredients=opened(tmp_path, model, 3), fit=fit_images())
    halved = build(inputs, build.settings({"inner_iterations": 3, "batch_size": 30}))  # 30, 15, 8, 4
    given = build(inputs, build.settings({"inner_iterations": 3, "batch_size": 30, "micro_batch_size": 4}))
    assert torch.equal(halved.coefficients, given.coefficients)
    model.room = 0
    with pytest.raises(SoupError, match=rf"^{method}: cpu is out of memory; give soup\.settings\.{method} micro_batch"):
        build(inputs, build.settings({"inner_iterations": 3}))


@pytest.mark.parametrize(
    "settings", [MehlSettings(block_size=2), MehlSettings(block_size=2, direction_scale="unit", layers="module")]
)
def test_coefficients_refer_to_the_ingredients(model, ingredients, fit, settings):
    soup = mehl_soup(model, ingredients, fit, settings)
    again = soup_from_coefficients(ingredients, soup.coefficients, soup.layers)
    assert all(torch.equal(soup.state_dict[name], again[name]) for name in again)
    # What was trained in the model is what the coefficients say, but for float32 rounding.
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, again[name], rtol=1e-5, atol=1e-5)


def test_frozen_tensors_stay_bit_equal(model, ingredients, fit):
    soup = mehl_soup(model, ingredients, fit, MehlSettings(direction_scale="unit"))
    assert torch.equal(soup.state_dict["frozen.weight"], ingredients.tensor(0, "frozen.weight"))
    assert not any(layer.startswith("frozen") for layer in soup.layers)


def test_blocks_cover_all_models_before_any_comes_again(model, ingredients, fit):
    soup = mehl_soup(model, ingredients, fit, MehlSettings(block_size=2, outer_iterations=6, inner_iterations=1))
    assert [len(block) for block in soup.blocks] == [2, 2, 1, 2, 2, 1]
    for pass_ in (soup.blocks[:3], soup.blocks[3:]):
        assert sorted(k for block in pass_ for k in block) == [0, 1, 2, 3, 4]
    assert soup.blocks[:3] != soup.blocks[3:]


def test_default_lengths_are_one_pass_over_the_models_and_five_over_the_images(model, ingredients, fit):
    soup = mehl_soup(model, ingredients, fit, MehlSettings(block_size=2, batch_size=16))
    assert len(soup.blocks) == 3
    assert len(soup.history) == 3 * 5 * 3  # 40 images in batches of 16
    assert soup.epochs == 15
