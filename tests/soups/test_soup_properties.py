"""What no random model may break."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soup_models import fit_images, save
from torch import nn

from pipeline.soups import IngredientSet, MehlSettings, mehl_soup, soup_from_coefficients, uniform_soup
from pipeline.soups.layers import layer_names

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
KINDS = st.sampled_from(["tensor", "module", "model"])


ANY = st.integers(1, 5)


@st.composite
def states(draw, count=ANY):
    """State dicts of one random architecture, some tensors shared, signed zeros and integers among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    number, dtype = draw(count), draw(DTYPES)
    result = [{} for _ in range(number)]
    for index in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(["w", "stem.w", f"blocks.{index}.w", f"blocks.0.{index}.b"])) + str(index)
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        frozen = draw(st.booleans())
        shared = torch.randn(shape, generator=generator).to(dtype)
        for state in result:
            state[name] = shared if frozen else torch.randn(shape, generator=generator).to(dtype)
    for k, state in enumerate(result):
        state["counter"] = torch.tensor(k)  # also keeps them from being duplicates
        state["zero"] = torch.tensor([-0.0 if k % 2 else 0.0], dtype=dtype)
    return result


def opened(states, order=None):
    with tempfile.TemporaryDirectory() as folder:
        return IngredientSet.open(save(Path(folder), states)).subset(order or range(len(states)))


def bits(tensor):
    return tensor.numpy().tobytes() if tensor.dtype != torch.bfloat16 else tensor.view(torch.int16).numpy().tobytes()


@given(states(), KINDS, st.data())
@settings(max_examples=40, deadline=None)
def test_one_hot_coefficients_return_that_ingredient_bit_for_bit(states, kind, data):
    k = data.draw(st.integers(0, len(states) - 1))
    ingredients = opened(states)
    layers = layer_names(ingredients.varying, kind)
    coefficients = torch.zeros(len(states), len(layers))
    coefficients[k] = 1
    soup = soup_from_coefficients(ingredients, coefficients, layers)
    for name, tensor in soup.items():
        if name == "counter" and not layers:
            continue  # nothing floating differs: no column says which ingredient is meant
        assert bits(tensor) == bits(states[k][name]), name


@given(states(), KINDS, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_streamed_equals_in_memory(states, kind, seed):
    ingredients = opened(states)
    layers = layer_names(ingredients.varying, kind)
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(len(states), len(layers), generator=generator, dtype=torch.float64)
    soup = soup_from_coefficients(ingredients, coefficients, layers)
    for name in ingredients.varying:
        column = coefficients[:, layers.index(name) if name in layers else -1]
        if kind == "module":
            continue
        stacked = torch.stack([state[name].double() for state in states])
        expected = torch.tensordot(column, stacked, dims=1).to(states[0][name].dtype)
        torch.testing.assert_close(soup[name], expected)


@given(states(st.integers(2, 5)), st.data())
@settings(max_examples=40, deadline=None)
def test_uniform_soup_does_not_depend_on_order_and_keeps_shared_tensors(states, data):
    order = data.draw(st.permutations(range(len(states))))
    first, second = uniform_soup(opened(states)), uniform_soup(opened(states, order))
    for name, tensor in first.state_dict.items():
        if name == "counter":
            assert tensor.dtype == torch.int64
        elif all(bits(state[name]) == bits(states[0][name]) for state in states):
            assert bits(tensor) == bits(states[0][name])
        else:
            torch.testing.assert_close(tensor, second.state_dict[name])


@given(states(st.integers(1, 2)), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_identical_ingredients_give_back_the_ingredient(states, count):
    same = opened(states[:1]).subset([0] * count)
    soup = uniform_soup(same)
    assert all(bits(tensor) == bits(states[0][name]) for name, tensor in soup.state_dict.items())
    assert soup.selected == tuple(range(count))


@given(st.integers(0, 10_000), KINDS, st.permutations(range(4)))
@settings(max_examples=10, deadline=None)
def test_permuting_the_ingredients_permutes_learned_coefficients(seed, kind, order):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    states = [
        {name: torch.randn(t.shape, generator=generator, dtype=t.dtype) for name, t in model.state_dict().items()}
        for _ in range(4)
    ]
    plan = MehlSettings(block_size=None, inner_iterations=5, layers=kind)
    fit = fit_images(dtype=torch.float64)
    straight = mehl_soup(model, opened(states), fit, plan)
    permuted = mehl_soup(model, opened(states, order), fit, plan)
    torch.testing.assert_close(permuted.coefficients, straight.coefficients[list(order)], rtol=0, atol=1e-9)


@given(states(st.integers(2, 4)))
@settings(max_examples=10, deadline=None)
def test_nothing_is_learned_where_nothing_differs(states):
    model = nn.Linear(6, 4)
    same = opened([model.state_dict()]).subset([0] * len(states))
    soup = mehl_soup(model, same, fit_images(), MehlSettings(layers="tensor"))
    assert soup.coefficients.shape == (len(states), 0)
    assert torch.equal(soup.state_dict["weight"], model.weight)
