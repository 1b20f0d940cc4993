"""Admission with reasons, lazy reading, the streaming mean."""

import json
import logging

import pytest
import torch
from safetensors.torch import save_file
from soup_models import Classifier, fine_tuned, save

from pipeline.errors import IngredientError
from pipeline.files import file_sha256
from pipeline.soups import IngredientSet, cosine_similarities, soup_from_coefficients


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


def masked(states, *infinite):
    """The states with a mask: minus infinity in those at ``infinite``, ones in the others."""
    values = [float("-inf") if k in infinite else 1.0 for k in range(len(states))]
    return [{**state, "mask": torch.tensor([0.0, value])} for state, value in zip(states, values, strict=True)]


def test_infinite_values_that_all_have_are_a_constant(tmp_path, states):
    ingredients = IngredientSet.open(save(tmp_path, masked(states, 0, 1, 2, 3)))
    assert len(ingredients) == 4
    assert "mask" not in ingredients.floating
    assert ingredients.mean()["mask"].tolist() == [0.0, float("-inf")]
    soup = soup_from_coefficients(ingredients, torch.full((4, 1), 0.25, dtype=torch.float64), ("model",))
    assert soup["mask"].tolist() == [0.0, float("-inf")]
    assert torch.isfinite(cosine_similarities(ingredients).weights).all()


@pytest.mark.parametrize("infinite", [(0,), (1, 2, 3)])
def test_infinite_values_that_some_have_are_none(tmp_path, states, infinite):
    kept = IngredientSet.open(save(tmp_path, masked(states, *infinite)), on_mismatch="skip")
    assert len(kept) == 4 - len(infinite)
    assert len(kept.rejected) == len(infinite)
    assert all("'mask' has infinite values, which not all files have" in reason for _, reason in kept.rejected)


def test_not_a_number_is_no_constant(tmp_path, states):
    paths = save(tmp_path, [{**state, "mask": torch.tensor([float("nan")])} for state in states])
    with pytest.raises(IngredientError, match="'mask' has NaN values"):
        IngredientSet.open(paths, on_mismatch="skip")


@pytest.mark.parametrize(("dtype", "word"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.complex64, "C64")])
def test_types_without_averages(tmp_path, states, dtype, word):
    paths = save(tmp_path, [{**state, "odd": torch.ones(2).to(dtype)} for state in states])
    with pytest.raises(IngredientError, match=f"'odd' has dtype {word}, which has no averages; convert it"):
        IngredientSet.open(paths)


def test_messages_call_the_files_as_the_caller_does(tmp_path, states):
    del states[1]["head.bias"]
    states[3] = states[2]
    titles = [f"trial {k}" for k in range(4)]
    kept = IngredientSet.open(save(tmp_path, states), titles=titles, on_mismatch="skip")
    assert [reason for _, reason in kept.rejected] == [
        "trial 1: tensor 'head.bias' is missing, it is in trial 0; leave the file out",
        "trial 3: has the same content as trial 2; leave one of them out",
    ]


def test_a_header_whose_class_names_are_no_json(tmp_path, states):
    paths = [tmp_path / f"{k}.safetensors" for k in range(3)]
    for path, state in zip(paths, states, strict=False):
        save_file(state, path, {"class_names": "[cat, dog]", "theta0_sha256": "t0"})
    assert len(IngredientSet.open(paths)) == 3
    save_file(states[2], paths[2], {"class_names": "[" * 100_000, "theta0_sha256": "t0"})
    assert "class_names" in rejection(paths)[1]


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
    assert "is neither safetensors nor a file of torch.save" in rejection(paths)[1]
    paths[1].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n")
    assert "is a Git LFS pointer" in rejection(paths)[1]
    paths[1].write_bytes(paths[0].read_bytes()[:-1])
    assert "ends early" in rejection(paths)[1]
    torch.save(states[1], paths[1])
    assert "is a file of torch.save; write its state dict as safetensors" in rejection(paths)[1]
    paths[1].unlink()
    assert ": does not exist; check the path" in rejection(paths)[1]


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
