"""Admission with reasons, lazy reading, the streaming mean."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from soup_models import Classifier, fine_tuned, save

from pipeline.errors import IngredientError
from pipeline.files import file_sha256
from pipeline.soups import IngredientSet


@pytest.fixture
def states(model):
    return fine_tuned(model, 4)


def rejection(paths):
    """The only rejected file and its reason."""
    kept = IngredientSet.open(paths, on_mismatch="skip")
    [(path, reason)] = kept.rejected
    assert path not in kept.paths
    assert str(path) in reason
    with pytest.raises(IngredientError) as error:
        IngredientSet.open(paths)
    assert str(error.value) == reason
    return path, reason


def test_reads_back_what_was_saved(tmp_path, states):
    ingredients = IngredientSet.open(save(tmp_path, states))
    assert len(ingredients) == 4
    assert ingredients.names == tuple(sorted(states[0]))
    assert all(torch.equal(ingredients.state_dict(2)[name], states[2][name]) for name in ingredients.names)
    assert ingredients.metadata(3)["trial_index"] == "3"


def test_wrong_shape_names_tensor_and_both_shapes_even_if_it_comes_first(tmp_path, states):
    states[0]["head.weight"] = torch.randn(9, 6)
    path, reason = rejection(save(tmp_path, states))
    assert path.name == "0.safetensors"
    assert "head.weight" in reason
    assert "(9, 6)" in reason
    assert "(4, 6)" in reason


def test_missing_and_extra_tensors(tmp_path, states):
    del states[1]["head.bias"]
    assert "'head.bias' is missing" in rejection(save(tmp_path / "missing", states))[1]
    states[1]["head.bias"] = torch.zeros(4)
    states[2]["tower.extra"] = torch.zeros(1)
    assert "'tower.extra'" in rejection(save(tmp_path / "extra", states))[1]


def test_other_dtype(tmp_path, states):
    states[3]["head.weight"] = states[3]["head.weight"].half()
    assert "F16" in rejection(save(tmp_path, states))[1]


@pytest.mark.parametrize(
    ("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (-float("inf"), "infinite")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_not_finite(tmp_path, model, value, word, dtype):
    states = fine_tuned(model.to(dtype), 3)
    states[1]["blocks.1.0.weight"][2, 3] = value
    _, reason = rejection(save(tmp_path, states))
    assert "blocks.1.0.weight" in reason
    assert word in reason


def test_duplicate_content(tmp_path, states):
    states[3] = states[1]
    path, reason = rejection(save(tmp_path, states))
    assert path.name == "3.safetensors"
    assert "1.safetensors" in reason


def test_same_extremes_are_no_duplicate(tmp_path, states):
    states[3] = {name: tensor.flip(0) for name, tensor in states[1].items()}
    assert len(IngredientSet.open(save(tmp_path, states))) == 4


@pytest.mark.parametrize(
    ("key", "value"), [("theta0_sha256", "other"), ("class_names", json.dumps(["b", "a", "c", "d"]))]
)
def test_other_initialisation_or_class_order(tmp_path, states, key, value):
    paths = save(tmp_path, states)
    header = {"theta0_sha256": "t0", "class_names": json.dumps(["a", "b", "c", "d"])} | {key: value}
    save_file(states[2], paths[2], metadata=header)
    assert key in rejection(paths)[1]


def test_unreadable_file(tmp_path, states):
    paths = save(tmp_path, states)
    paths[1].write_bytes(b"not safetensors")
    assert "cannot be read" in rejection(paths)[1]
    paths[1].unlink()
    assert "cannot be read" in rejection(paths)[1]


def test_nothing_left(tmp_path):
    with pytest.raises(IngredientError, match="no ingredient"):
        IngredientSet.open([])
    with pytest.raises(IngredientError, match=r"gone\.safetensors"):
        IngredientSet.open([tmp_path / "gone.safetensors"], on_mismatch="skip")


def test_ingredients_without_initialisation_are_taken_with_a_warning(tmp_path, states, caplog):
    paths = []
    for k, state in enumerate(states):
        paths.append(tmp_path / f"{k}.safetensors")
        save_file(state, paths[-1])
    with caplog.at_level(logging.WARNING, logger="pipeline.soups"):
        assert len(IngredientSet.open(paths)) == 4
    assert "theta0_sha256" in caplog.text


def test_mean_is_accumulated_in_high_precision_and_half_is_widened(tmp_path):
    states = fine_tuned(Classifier().to(torch.bfloat16), 72)
    mean = IngredientSet.open(save(tmp_path, states)).mean()
    expected = torch.stack([state["head.weight"].double() for state in states]).mean(0)
    assert mean["head.weight"].dtype == torch.float32
    torch.testing.assert_close(mean["head.weight"].double(), expected, rtol=1e-7, atol=1e-8)


def test_subset_keeps_order_and_open_files(ingredients):
    part = ingredients.subset([3, 1, 3])
    assert part.paths == (ingredients.paths[3], ingredients.paths[1], ingredients.paths[3])
    assert part.tensor(0, "head.weight").data_ptr() == ingredients.tensor(3, "head.weight").data_ptr()


def test_frozen_tensors_do_not_vary(ingredients):
    assert set(ingredients.names) - set(ingredients.varying) == {"frozen.weight", "frozen.bias"}


def test_file_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
