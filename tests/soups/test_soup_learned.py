"""Learned-Soup against plain autograd, in both of its memory behaviours; HL-Soup as MEHL-Soup with one block."""

import pytest
import torch
from soup_models import Classifier, fit_images, opened
from torch.func import functional_call
from torch.nn import functional

from pipeline.soups import METHODS, LearnedSettings, MehlSettings, SoupInputs, learned_soup, mehl_soup
from pipeline.soups.layers import module_of

LAYERS = {"tensor": lambda name: name, "module": module_of, "model": lambda name: "model"}


@pytest.mark.parametrize("memory", ["corrected", "released"])
@pytest.mark.parametrize(("kind", "temperature"), [("tensor", False), ("module", True), ("model", False)])
def test_follows_equation_2(tmp_path, memory, kind, temperature):
    model = Classifier().double().eval()
    ingredients = opened(tmp_path, model, 3)
    images, labels = fit_images(dtype=torch.float64)
    steps, rate = 6, 0.3
    settings = LearnedSettings(
        inner_iterations=steps,
        batch_size=len(labels),
        learning_rate=rate,
        optimizer="sgd",
        schedule="constant",
        layers=kind,
        temperature=temperature,
        memory=memory,
    )
    soup = learned_soup(model, ingredients, (images, labels), settings)

    thetas = [ingredients.state_dict(k) for k in range(3)]
    layer_of = {name: LAYERS[kind](name) for name in ingredients.varying}
    raw = {layer: torch.zeros(3, dtype=torch.float64, requires_grad=True) for layer in soup.layers}
    beta = torch.ones((), dtype=torch.float64, requires_grad=True)
    for _ in range(steps):
        weights = {layer: values.softmax(0) for layer, values in raw.items()}
        mixed = {
            name: sum(weights[layer_of[name]][k] * thetas[k][name] for k in range(3)) if name in layer_of else tensor
            for name, tensor in thetas[0].items()
        }
        logits = functional_call(model, mixed, (images,))
        loss = functional.cross_entropy(beta * logits if temperature else logits, labels)
        gradients = torch.autograd.grad(loss, [*raw.values(), beta], allow_unused=True)
        with torch.no_grad():
            for values, gradient in zip(raw.values(), gradients, strict=False):
                values -= rate * gradient
            if temperature:
                beta -= rate * gradients[-1]
    expected = torch.stack([values.softmax(0) for values in raw.values()], dim=1).detach()
    assert expected.std() > 1e-3
    torch.testing.assert_close(soup.coefficients, expected, rtol=0, atol=1e-9)


def test_hl_is_mehl_with_one_block_of_all(model, ingredients, fit):
    inputs = SoupInputs(model=model, ingredients=ingredients, fit=fit, seed=4)
    hl = METHODS["hl-plus"](inputs)
    assert [sorted(block) for block in hl.blocks] == [[0, 1, 2, 3, 4]]
    mehl = mehl_soup(model, ingredients, fit, MehlSettings(block_size=5, outer_iterations=1), seed=4)
    assert torch.equal(hl.coefficients, mehl.coefficients)
    assert all(torch.equal(hl.state_dict[name], mehl.state_dict[name]) for name in hl.state_dict)
