import hashlib
import pickle
from pathlib import Path

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import model_config
from torch import nn

from pipeline.errors import ModelError
from pipeline.models import build_classifier
from pipeline.weights import load_weights, read_weights, save_weights, unique_state, weights_sha256

STATE = {
    "b": torch.tensor([1.0, -0.0, 3.0]),
    "a": torch.arange(6, dtype=torch.int64).reshape(2, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "scalar": torch.tensor(5),
    "empty": torch.zeros(0, 4),
}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, inputs):
        return self.second(self.first(inputs))


def test_the_hash_of_weights_depends_on_neither_file_nor_order(tmp_path):
    expected = weights_sha256(STATE)
    assert weights_sha256(dict(reversed(STATE.items()))) == expected
    assert (
        weights_sha256({name: value.clone().requires_grad_(value.is_floating_point()) for name, value in STATE.items()})
        == expected
    )
    save_weights(STATE, tmp_path / "a.safetensors", {})
    save_weights(dict(reversed(STATE.items())), tmp_path / "b.safetensors", {"other": "metadata"})
    torch.save(STATE, tmp_path / "c.pt")
    assert {weights_sha256(read_weights(path)) for path in tmp_path.iterdir()} == {expected}
    strided = {**STATE, "a": STATE["a"].T.contiguous().T}
    assert not strided["a"].is_contiguous()
    assert weights_sha256(strided) == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"b": torch.tensor([1.0, 0.0, 3.0])},  # the sign of zero
        {"b": torch.tensor([1.0, -0.0, torch.nextafter(torch.tensor(3.0), torch.tensor(4.0))])},
        {"a": STATE["a"].reshape(3, 2)},
        {"a": STATE["a"].to(torch.int32)},
        {"half": STATE["half"].to(torch.float16)},
        {"empty": torch.zeros(4, 0)},
        {"new": torch.zeros(1)},
    ],
    ids=str,
)
def test_the_hash_of_weights_changes_with_any_bit_shape_type_or_name(changed):
    assert weights_sha256({**STATE, **changed}) != weights_sha256(STATE)


def test_the_hash_of_weights_changes_with_a_name():
    renamed = {name.replace("half", "hald"): value for name, value in STATE.items()}
    assert weights_sha256(renamed) != weights_sha256(STATE)


@given(st.integers(0, 15), st.integers(0, 31))
def test_the_hash_of_weights_changes_with_every_bit(word, bit):
    values = torch.arange(16, dtype=torch.int32)
    flipped = values.clone()
    flipped[word] ^= torch.tensor(-(2**31) if bit == 31 else 1 << bit, dtype=torch.int32)
    assert weights_sha256({"w": flipped}) != weights_sha256({"w": values})


def test_saved_weights_come_back_with_their_metadata(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    sha256 = save_weights(STATE, path, {"theta0_sha256": "abc", "class_names": "äöü"})
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    back = read_weights(path)
    assert back.keys() == STATE.keys()
    for name, value in STATE.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value)
    with safetensors.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"theta0_sha256": "abc", "class_names": "äöü"}
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_the_same_weights_and_metadata_give_the_same_file(tmp_path):
    # A repeated upload must not look like a changed file; safetensors alone shuffles the metadata.
    metadata = {f"key {number}": str(number) for number in range(8)}
    hashes = {save_weights(STATE, tmp_path / "model.safetensors", metadata) for _ in range(10)}
    hashes.add(save_weights(dict(reversed(STATE.items())), tmp_path / "a", dict(reversed(metadata.items()))))
    assert len(hashes) == 1


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path):
    torch.manual_seed(1)
    source, target = Tied(), Tied()
    state = unique_state(source)
    assert set(state) == {"first.weight", "first.bias", "second.bias"}
    save_weights(state, tmp_path / "tied.safetensors", {})
    load_weights(target, read_weights(tmp_path / "tied.safetensors"), source="file")
    assert target.second.weight is target.first.weight
    inputs = torch.randn(3, 4)
    assert torch.equal(target(inputs), source(inputs))


def test_unique_state_keeps_everything_that_is_not_tied():
    model = build_classifier(model_config(backbone="torchvision", name="resnet18"), 10)
    assert unique_state(model).keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("first.bias"), "lacks 'first.bias'"),
        (lambda state: state.update(extra=torch.zeros(1)), "has 'extra', which the model lacks"),
        (lambda state: state.update({"first.bias": torch.zeros(5)}), "'first.bias' of shape (5,), the model (4,)"),
    ],
)
def test_weights_that_do_not_fit_change_nothing_and_are_named(change, said):
    model, state = Tied(), unique_state(Tied())
    before = weights_sha256(unique_state(model))
    state = dict(state)
    change(state)
    with pytest.raises(ModelError) as caught:
        load_weights(model, state, source="weights.pt")
    assert str(caught.value).startswith("weights.pt: does not fit the model: ")
    assert said in str(caught.value)
    assert weights_sha256(unique_state(model)) == before


def test_many_misfits_are_counted():
    with pytest.raises(
        ModelError, match=r"lacks 'first.weight', .*; has 'a', 'b', 'c' and 2 more, which the model lacks$"
    ):
        load_weights(Tied(), {name: torch.zeros(1) for name in "abcde"}, source="weights.pt")


class Evil:
    def __reduce__(self):
        return Path.touch, (Path(self.target),)


@pytest.mark.parametrize("name", ["evil.pt", "evil.pth", "evil.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_and_never_run(tmp_path, name, zipped):
    evil = Evil()
    evil.target = str(tmp_path / "owned")
    path = tmp_path / name
    if zipped:
        torch.save({"state_dict": {"weight": evil}}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": evil}))
    with pytest.raises(ModelError, match="would have to be run to be read; save"):
        read_weights(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 20, b"<html>Not found</html>"])
def test_a_file_that_is_no_weights_is_a_one_line_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_weights(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"state_dict": {}, "weights": 1}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="holds no state dict"):
        read_weights(tmp_path / "weights.pt")
