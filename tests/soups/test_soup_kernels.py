"""Mixing and projecting over flat directions: the ways of CPU and GPU agree, and with sums written out."""

import importlib

import pytest
import torch

from pipeline.soups import kernels
from pipeline.soups.flat import Layout
from pipeline.soups.packed import DELTA_DTYPES, Packed

SHAPES = {"weight": (70, 90), "bias": (7,), "scale": (), "table": (33, 300)}


@pytest.fixture(scope="module")
def triton_kernels():
    """The kernels of CUDA, run by Triton's interpreter on the CPU (see tests/conftest.py)."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "CHUNK", 512)  # so that tensors have several pieces
        yield importlib.reload(importlib.import_module("pipeline.soups.triton_kernels"))


def packed(dtype, models=3, full=torch.float32):
    """A matrix of random directions, and the same unpacked by hand, by tensor: (b, size)."""
    generator = torch.Generator().manual_seed(1)
    tensors = {name: torch.empty(shape, dtype=full) for name, shape in SHAPES.items()}
    layout = Layout.of(tensors)
    matrix, unpacked = Packed.empty(models, layout, next(iter(tensors.values())), dtype), {}
    for t, (name, tensor) in enumerate(tensors.items()):
        directions = torch.randn(models, tensor.numel(), generator=generator, dtype=full)
        centre = torch.randn(tensor.numel(), generator=generator, dtype=full)
        for k in range(models):
            matrix.store(k, t, directions[k] + centre, centre)
        stored = matrix.rows[:, layout.starts[t] :][:, : tensor.numel()].to(full)
        unpacked[name] = stored if matrix.quantum is None else stored * matrix.quantum[t][:, None]
        torch.testing.assert_close(unpacked[name], directions, rtol=0.02, atol=0.03)
    return matrix, unpacked


@pytest.mark.parametrize("dtype", DELTA_DTYPES.values(), ids=DELTA_DTYPES)
@pytest.mark.parametrize("way", ["cpu", "cuda"])
def test_products_are_the_sums_written_out(triton_kernels, way, dtype, monkeypatch):
    matrix, unpacked = packed(dtype)
    if way == "cuda":
        monkeypatch.setattr("pipeline.soups.packed.mix", triton_kernels.mix)
        monkeypatch.setattr("pipeline.soups.packed.project", triton_kernels.project)
    layout, quantum = matrix.layout, 1 if matrix.quantum is None else matrix.quantum
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(len(SHAPES), 3, generator=generator)
    fixed = torch.randn(layout.numel, generator=generator)
    out = torch.full_like(fixed, -7)
    matrix.mix(weights * quantum, fixed, out)
    for t, (name, found) in enumerate(layout.views(out).items()):
        expected = layout.views(fixed)[name].flatten() + weights[t] @ unpacked[name]
        torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-4)

    vectors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items() if name != "bias"}
    products = torch.full((len(SHAPES), 3), -7.0)
    matrix.project(vectors, products)
    products *= quantum
    for t, name in enumerate(SHAPES):
        expected = unpacked[name] @ vectors[name].flatten() if name in vectors else torch.zeros(3)
        torch.testing.assert_close(products[t], expected, rtol=1e-4, atol=1e-3)


def test_models_in_float64_are_mixed_in_float64(triton_kernels):
    matrix, unpacked = packed(torch.float64, full=torch.float64)
    vectors = [torch.randn(shape, dtype=torch.float64) for shape in SHAPES.values()]
    layout, products = matrix.layout, torch.empty(len(SHAPES), 3, dtype=torch.float64)
    triton_kernels.project(matrix.rows, vectors, matrix.chunks, layout.starts, layout.sizes, products)
    for t, (directions, vector) in enumerate(zip(unpacked.values(), vectors, strict=True)):
        torch.testing.assert_close(products[t], directions @ vector.flatten(), rtol=1e-12, atol=1e-12)


def test_ingredients_of_two_stored_types_are_mixed_each_in_its_own(tmp_path):
    from soup_models import Classifier, fine_tuned, fit_images, save

    from pipeline.soups import IngredientSet, MehlSettings, mehl_soup

    model, fit = Classifier(), fit_images()
    states = fine_tuned(model, 4, spread=0.1)
    half = [
        {name: tensor.bfloat16() if "blocks" in name else tensor for name, tensor in state.items()} for state in states
    ]
    same = [{name: tensor.float() for name, tensor in state.items()} for state in half]
    found = [
        mehl_soup(
            model,
            IngredientSet.open(save(tmp_path / str(number), some)),
            fit,
            MehlSettings(block_size=2, inner_iterations=5, delta_dtype=None, layers="module"),
        )
        for number, some in enumerate((half, same))
    ]
    assert found[0].layers == found[1].layers
    # Directions of what is stored in bfloat16 are kept in bfloat16, the others exactly.
    torch.testing.assert_close(found[0].coefficients, found[1].coefficients, rtol=0, atol=5e-3)
    assert float(found[0].coefficients.std()) > 0.01


def test_the_model_is_given_back_in_tensors_of_its_own(model, ingredients, fit):
    from pipeline.soups import MehlSettings, mehl_soup

    mehl_soup(model, ingredients, fit, MehlSettings(block_size=2, inner_iterations=2))
    storages = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    assert len(storages) == len(model.state_dict())
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in model.state_dict().values())
