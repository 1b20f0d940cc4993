"""Checkpoints as they exist out there: each is read, or refused in one true line with what it is and what to do."""

import bz2
import gzip
import json
import os
import pickle
import struct
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from samples import special_files
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipeline.errors import IngredientError, ModelError
from pipeline.soups.ingredient_file import open_file
from pipeline.weights import WEIGHTS_CHOICES, class_names_of, load_weights, read_checkpoint, read_weights


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


STATE = network().state_dict()
AVERAGE = {name: value + 1 for name, value in STATE.items()}


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def refusal(path, weights="auto"):
    """What is said of a file: one line, which begins with its path."""
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path, weights)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert len(said.splitlines()) == 1
    return said.removeprefix(f"{path}: ")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 46830571\n"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty (0 bytes); copy or download it again"),
        (POINTER, "is a Git LFS pointer, not the file; fetch it with `git lfs pull`"),
        (b"/annex/objects/SHA256E-s1--0.pt\n", "is a git-annex pointer"),
        (b"\n <!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"<html>Not found</html>", "is a web page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is an XML text"),
        (b'{"error": "Repository not found"}', "is a JSON text, no weights"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ", "is what macOS keeps beside a file"),
        (b"GGUF\x03\x00\x00\x00" + b"\x00" * 40, "is a GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + b"\x00" * 40, "is an HDF5 file"),
        (gzip.compress(b"weights"), "is compressed (gzip); unpack it"),
        (bz2.compress(b"weights"), "is compressed (bzip2); unpack it"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.0.0" + b"\x00" * 40, "seems to be an ONNX model"),
        (b"\x1c\x00\x00\x00TFL3" + b"\x00" * 40, "is a TensorFlow Lite model"),
        (b"\x00" * 20, "is neither safetensors nor a file of torch.save, nor of another kind that is known here"),
        (b"nothing", "is neither safetensors nor a file of torch.save"),
        (
            pickle.dumps({"weight": [1.0]}, protocol=4),
            "a pickle that would have to be run to be read; save it with torch.save",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_of_other_kinds_are_named_whatever_they_are_called(tmp_path, suffix, content, said):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert said in refusal(path)


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def test_archives_are_told_by_what_is_in_them(tmp_path):
    path = tmp_path / "model.pt"
    scripted = torch.jit.trace(network().eval(), torch.zeros(1, 3), check_trace=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(scripted, path)
    assert "is a TorchScript archive; save `model.state_dict()` of it" in refusal(path)
    torch.export.save(torch.export.export(network().eval(), (torch.zeros(1, 3),)), tmp_path / "model.pt2")
    assert "is a program of torch.export" in refusal(tmp_path / "model.pt2")
    np.savez(tmp_path / "model.npz", weight=np.zeros(3))
    assert "is a NumPy archive (.npz)" in refusal(tmp_path / "model.npz")
    np.save(tmp_path / "model.npy", np.zeros(3))
    assert "is a NumPy array" in refusal(tmp_path / "model.npy")
    zipped(path, "photos/1.jpg")
    assert "is a zip archive without the parts that torch.save writes; unpack it" in refusal(path)
    torch.save(STATE, tmp_path / "inner.pt")
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "inner.pt", "inner.pt")
    assert "is a tar archive; unpack it" in refusal(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before PyTorch 1.6"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_of_torch_save_that_ends_early(tmp_path, legacy, share):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(1000)}, path, _use_new_zipfile_serialization=not legacy)
    assert read_weights(path)["w"].shape == (1000,)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    said = refusal(path)
    assert "ends early" in said
    assert "copy or download it again" in said


def test_a_safetensors_file_that_ends_early_says_how_much_is_there(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(STATE, path)
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    assert f"ends early: it has {len(content) - 7} of {len(content)} bytes" in refusal(path)
    path.write_bytes(content[:100])
    assert "ends early: it has 100 bytes, its header alone " in refusal(path)


def test_damage_within_a_file_is_told_in_a_line(tmp_path):
    save_file(STATE, tmp_path / "model.safetensors")
    data = bytearray((tmp_path / "model.safetensors").read_bytes())
    data[20:30] = b"\xff" * 10
    (tmp_path / "model.safetensors").write_bytes(data)
    assert "is a damaged safetensors file" in refusal(tmp_path / "model.safetensors")
    nested = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (tmp_path / "nested.safetensors").write_bytes(struct.pack("<Q", len(nested)) + nested)
    assert "is a damaged safetensors file" in refusal(tmp_path / "nested.safetensors")
    torch.save({"w": torch.zeros(1000)}, tmp_path / "model.pt")
    data = bytearray((tmp_path / "model.pt").read_bytes())
    position = data.index(b"ctorch")
    data[position : position + 20] = b"\xff" * 20
    (tmp_path / "model.pt").write_bytes(data)
    assert "is damaged" in refusal(tmp_path / "model.pt")


def described(*shape, offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"a": described(2, offsets=(0, 8)), "b": described(2, offsets=(4, 12))}, "is a damaged safetensors file"),
        ({"a": described(1), "b": described(1, offsets=(8, 12))}, "is a damaged safetensors file"),
        ({"a": described(1, offsets=(4, 0))}, "is a damaged safetensors file"),
        ({"a": described(1)}, "is a damaged safetensors file"),  # of twelve bytes
        ({"a": described(2**62, 2**62)}, "is a damaged safetensors file"),
        ({"a": described(2**63, 2**63, 0, offsets=(0, 0))}, "is a damaged safetensors file"),
        ({"a": described(-1)}, "is a damaged safetensors file"),
        ({"a": described(1, dtype="F128")}, "is a damaged safetensors file"),
        ({"a": described(1, offsets=(0, 2**62))}, f"ends early: it has 92 of {2**62 + 80} bytes"),
        ({"__metadata__": {"class_names": ["a"]}}, "is a damaged safetensors file"),
        ({"a\n\x1b[31m": described(3, offsets=(0, 12))}, r"has control characters in its name ('a\n\x1b[31m'); rename"),
        ({"a" * 9999: described(3, offsets=(0, 12))}, f"has a name of 9999 letters ('{'a' * 60}…'); rename it"),
    ],
)
def test_headers_that_cannot_be_true(tmp_path, header, said):
    text = json.dumps(header, separators=(",", ":")).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\x00" * 12)
    assert said in refusal(path)
    assert len(refusal(path)) < 250
    with pytest.raises(IngredientError) as caught:
        open_file(path)
    assert str(caught.value) == f"{path}: {refusal(path)}"


def test_a_header_that_is_longer_than_the_file_is_not_waited_for(tmp_path):
    for length, said in {2**63: "is neither safetensors nor", 99_000_000: "its header alone 99000008"}.items():
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a":')
        assert said in refusal(tmp_path / "model.safetensors")


def test_files_of_no_and_of_empty_tensors(tmp_path):
    save_file({}, tmp_path / "model.safetensors")
    assert "it is empty" in refusal(tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(0, 3)}, tmp_path / "model.safetensors")
    assert read_weights(tmp_path / "model.safetensors")["a"].shape == (0, 3)


def pickled_tensor(numel=4, shape=(4,), stride=(1,), offset=0):
    """What torch.save writes of a tensor, whatever its sizes: that is for what reads it to find out."""

    def number(value):
        return b"\x8a" + bytes([11]) + value.to_bytes(11, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(numel) + b"tQ"
    place = storage + number(offset) + numbers(shape) + numbers(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"\x89ccollections\nOrderedDict\n)RtR"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def write_zip(path, pickled, compression=zipfile.ZIP_STORED, data=b"\x00" * 16):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"data.pkl": b"\x80\x02" + pickled + b".", "version": b"3\n", "data/0": data}.items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"stride": (100,)}, "is damaged"),
        ({"offset": 100}, "is damaged"),
        ({"offset": -2}, "is damaged"),
        ({"stride": (-1,), "offset": 3}, "is damaged"),
        ({"shape": (-4,)}, "is damaged"),
        ({"numel": 10**6, "shape": (10**6,)}, "is damaged"),
        ({"numel": 2**80}, "is damaged"),
        ({"shape": (2**33, 2**33), "stride": (0, 0)}, "is damaged"),
        ({"shape": (5000, 5000, 1000), "stride": (0, 0, 0)}, "its tensors would take 100000000000 bytes, and it has"),
        ({"shape": (3, 10**6), "stride": (1, 0)}, "save 'w' with .clone()"),
    ],
)
def test_tensors_that_reach_beyond_what_is_stored(tmp_path, sizes, said):
    path = write_zip(tmp_path / "model.pt", b"}" + text("w") + pickled_tensor() + b"s")
    assert read_weights(path)["w"].shape == (4,)
    write_zip(path, b"}" + text("w") + pickled_tensor(**sizes) + b"s")
    assert said in refusal(path)


def test_views_of_the_usual_kinds_are_read(tmp_path):
    value = torch.arange(6.0)
    views = {"tied": value, "again": value, "part": value[2:], "turned": value.view(2, 3).T, "wide": value.expand(9, 6)}
    torch.save(views, tmp_path / "model.pt")
    assert same(read_weights(tmp_path / "model.pt"), views)


def test_an_archive_that_is_larger_unpacked_is_not_unpacked(tmp_path):
    deflated = {"compression": zipfile.ZIP_DEFLATED}
    said = "is larger unpacked than packed, which torch.save does not do; save it again with torch.save"
    assert refusal(write_zip(tmp_path / "data.pt", b"}", data=b"\x00" * 10**6, **deflated)) == said
    assert refusal(write_zip(tmp_path / "pickle.pt", b"N0" * 10**5 + b"N", **deflated)) == said


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        ((b"}" + text("model")) * 100_000 + b"}" + b"s" * 100_000, "but 'model' (dict)"),
        (b"]" * 100_000 + b"a" * 99_999, "but a list"),
        (b"})" + b"\x85" * 50_000 + b"Ns", "but 'a tuple' (NoneType)"),  # a nested key
        (b"}" + text("a\nb\x1b[2J") + b"Ns", r"but 'a\nb\x1b[2J' (NoneType)"),
    ],
    ids=["dictionaries", "lists", "key", "control characters"],
)
def test_pickles_that_are_nested_without_end(tmp_path, pickled, said):
    assert said in refusal(write_zip(tmp_path / "model.pt", pickled))


def test_many_names_and_keys_that_share_what_they_hold_take_no_time(tmp_path):
    """Else these took minutes: of n names and n keys, n * n would be looked at."""
    nothing = torch.zeros(0)
    torch.save({f"{number}_ema.x": nothing for number in range(5000)}, tmp_path / "model.pt")
    assert len(read_weights(tmp_path / "model.pt")) == 5000
    shared = {f"{number}": nothing for number in range(3000)}
    torch.save({f"ema_{number}": shared for number in range(3000)}, tmp_path / "model.pt")
    assert len(read_weights(tmp_path / "model.pt")) == 3000
    torch.save(dict.fromkeys(range(3000), shared), tmp_path / "model.pt")
    assert len(read_weights(tmp_path / "model.pt")) == 3000


def test_a_header_of_any_length_is_no_text(tmp_path):
    """The length of a safetensors header comes first, and may begin with the bytes of spaces and braces."""
    for name in range(2000):
        data = save({"w" * (name % 300 + 1): torch.zeros(1)}, {"note": "x" * name})
        length = int.from_bytes(data[:8], "little")
        if bytes(data[:2]).strip()[:1] == b"{" or name in (0, 1999):
            (tmp_path / "model.safetensors").write_bytes(data)
            assert len(read_weights(tmp_path / "model.safetensors")) == 1
    assert length > 1000


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(ModelError, match="does not exist; check the path"):
        read_weights(tmp_path / "gone.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "gone.pt")
    assert f"is a link to {tmp_path / 'gone.pt'}, which does not exist" in refusal(tmp_path / "link.pt")
    *special, loop = special_files(tmp_path, ".pt")
    assert {refusal(path) for path in special} == {"is no file; give a weight file"}
    assert refusal(loop) == "is a link that leads back to itself; check the path"
    assert "cannot be reached (File name too long)" in refusal(tmp_path / ("x" * 300))
    assert "this folder holds none of model.safetensors" in refusal(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path):
    torch.save(STATE, tmp_path / "model.pt")
    (tmp_path / "model.pt").chmod(0)
    if os.access(tmp_path / "model.pt", os.R_OK):
        pytest.skip("this user may read everything")
    assert "cannot be read (Permission denied); check its permissions" in refusal(tmp_path / "model.pt")


def test_safetensors_under_the_name_of_a_pickle_and_the_reverse(tmp_path):
    save_file(STATE, tmp_path / "model.pt", {"theta0_sha256": "abc"})
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert same(checkpoint.state, STATE)
    assert checkpoint.metadata == {"theta0_sha256": "abc"}
    torch.save(STATE, tmp_path / "model.safetensors")
    assert same(read_weights(tmp_path / "model.safetensors"), STATE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: value.to_sparse(), "'2.weight' is sparse (sparse_coo); save it with .to_dense()"),
        (lambda value: value.to_sparse_csr(), "'2.weight' is sparse (sparse_csr)"),
        (lambda value: value.to("meta"), "'2.weight' has a shape but no values (device meta)"),
        (
            lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
            "'2.weight' is quantized (qint8); save it with .dequantize()",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values(tmp_path, change, said):
    torch.save({"state_dict": {**STATE, "2.weight": change(STATE["2.weight"])}}, tmp_path / "model.pt")
    assert said in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.int64], ids=lambda dtype: str(dtype)
)
def test_tensors_of_a_type_that_is_no_weight_do_not_fit(dtype):
    with pytest.raises(ModelError, match=r"has '2\.weight' as \w+, the model as float32; save it in that type"):
        load_weights(network(), {**STATE, "2.weight": STATE["2.weight"].to(dtype)}, source="model.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_are_converted(dtype):
    model = network()
    load_weights(model, {name: value.to(dtype) for name, value in AVERAGE.items()}, source="model.pt")
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, AVERAGE["0.weight"].to(dtype).float())


def test_counters_may_be_missing_and_constants_left_over():
    model = network()
    old = {name: value for name, value in AVERAGE.items() if "num_batches" not in name}
    masks = {"mask": torch.full((4,), float("-inf")), "position_ids": torch.arange(4)}
    load_weights(model, {**old, **masks}, source="model.pt")
    assert torch.equal(model[1].running_mean, AVERAGE["1.running_mean"])
    for name, value in {"w": torch.zeros(3), "w8": torch.zeros(3).to(torch.float8_e4m3fn)}.items():
        with pytest.raises(ModelError, match=f"has '{name}', which the model lacks"):
            load_weights(model, {**STATE, name: value}, source="model.pt")
    with pytest.raises(ModelError, match=r"lacks '1\.running_mean'"):
        load_weights(model, {n: value for n, value in STATE.items() if n != "1.running_mean"}, source="model.pt")


def lightning(raw, average):
    """As Lightning's callback WeightAveraging writes it."""
    return {"state_dict": prefixed("model.", average), "current_model_state": prefixed("model.", raw),
            "averaging_state": {"n_averaged": torch.tensor(3)}, "pytorch-lightning_version": "2.6.0"}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "taken", "beside"),
    [
        ({"epoch": 3, "state_dict": STATE, "state_dict_ema": AVERAGE}, "state_dict_ema", "state_dict"),
        (
            {"model": STATE, "model_ema": {"n_averaged": torch.tensor(7), **prefixed("module.", AVERAGE)}},
            "model_ema",
            "model",
        ),
        ({"params_ema": AVERAGE, "params": STATE}, "params_ema", "params"),
        ({"model": {"state_dict": STATE}, "ema": {"state_dict": AVERAGE}}, "ema.state_dict", "model.state_dict"),
        (
            {"state_dict": {**prefixed("model.", STATE), **prefixed("ema_model.module.", AVERAGE)}},
            "state_dict.ema_model",
            "state_dict.beside it",
        ),
        (lightning(STATE, AVERAGE), "state_dict", "current_model_state"),
    ],
    ids=["timm", "torchvision", "BasicSR", "nested", "in one state", "Lightning"],
)
def test_of_raw_and_averaged_weights_people_choose(tmp_path, content, taken, beside):
    torch.save(content, tmp_path / "model.pt")
    averaged, raw = (read_checkpoint(tmp_path / "model.pt", kind) for kind in ("auto", "raw"))
    assert same(averaged.state, AVERAGE)
    assert same(raw.state, STATE)
    assert (averaged.averaged, raw.averaged) == (True, False)
    assert (averaged.taken, averaged.beside) == (taken, (beside,))
    assert raw.beside == (taken,)
    assert averaged.choice == f"averaged weights ({taken}) are taken, raw ones are beside them ({beside})"
    assert same(read_checkpoint(tmp_path / "model.pt", "averaged").state, AVERAGE)


def test_weights_that_are_not_there_are_not_replaced_by_others(tmp_path):
    torch.save({"state_dict": STATE}, tmp_path / "raw.pt")
    assert "holds no averaged weights, only raw ones" in refusal(tmp_path / "raw.pt", "averaged")
    torch.save(AveragedModel(network()).state_dict(), tmp_path / "averaged.pt")
    assert "holds no raw weights, only averaged ones" in refusal(tmp_path / "averaged.pt", "raw")
    checkpoint = read_checkpoint(tmp_path / "averaged.pt")
    assert same(checkpoint.state, STATE)
    assert checkpoint.averaged
    assert checkpoint.choice is None


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_forward_module._orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    torch.save(prefixed(prefix, STATE), tmp_path / "model.pt")
    assert same(read_weights(tmp_path / "model.pt"), STATE)


@pytest.mark.parametrize("name", ["model.", "net._orig_mod.", "classifier.module."])
def test_the_network_in_a_module_of_lightning(tmp_path, name):
    torch.save({"state_dict": prefixed(name, STATE), "pytorch-lightning_version": "2.5.0"}, tmp_path / "last.ckpt")
    assert same(read_weights(tmp_path / "last.ckpt"), STATE)
    torch.save({"state_dict": prefixed("net.", STATE)}, tmp_path / "own.pt")  # whose names may be meant
    assert same(read_weights(tmp_path / "own.pt"), prefixed("net.", STATE))


def test_parts_of_modules_that_were_compiled_or_sharded(tmp_path):
    inside = {name.replace("0.", "0._orig_mod.", 1): value for name, value in STATE.items()}
    torch.save(prefixed("_fsdp_wrapped_module.", inside), tmp_path / "model.pt")
    assert same(read_weights(tmp_path / "model.pt"), STATE)


def test_names_that_would_become_one_stay_what_they_are(tmp_path):
    torch.save({"_orig_mod.a": torch.zeros(1), "a": torch.ones(1)}, tmp_path / "model.pt")
    assert set(read_weights(tmp_path / "model.pt")) == {"_orig_mod.a", "a"}


def itself():
    content = {"epoch": 3}
    content["state_dict"] = content
    content["model"] = {"model": content}
    return content


def test_any_number_of_wrappings_ends(tmp_path):
    content = STATE
    for depth in range(3000):
        content = {"model": content}
        if depth == 3:
            torch.save(content, tmp_path / "few.pt")
    assert same(read_weights(tmp_path / "few.pt"), STATE)
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(50_000)  # of what writes it
        torch.save(content, tmp_path / "model.pt")
    finally:
        sys.setrecursionlimit(limit)
    assert "holds no state dict" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (itself(), "holds no state dict"),
        ({"state_dict": torch.zeros(3)}, "holds no state dict (names to tensors) but 'state_dict' (Tensor)"),
        ({"state_dict": {}}, "it is empty"),
        ({"model": {"weight": 1.0}}, "holds no state dict (names to tensors) but 'weight' (float)"),
        ({}, "it is empty"),
        ({0: torch.zeros(3)}, "holds no state dict (names to tensors) but '0' (Tensor)"),
        (torch.zeros(3), "holds no state dict (names to tensors) but a Tensor"),
        ([STATE], "holds no state dict (names to tensors) but a list"),
        ({**STATE, "epoch": 3}, "besides tensors there is 'epoch' (int)"),
        ({"student": STATE, "teacher": AVERAGE}, "holds several state dicts (student, teacher)"),
        (torch.optim.Adam(network().parameters()).state_dict(), "is the state of an optimizer, no model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_without_a_state_dict_say_what_they_hold(tmp_path, content, said):
    torch.save(content, tmp_path / "model.pt")
    assert said in refusal(tmp_path / "model.pt")


def test_the_only_state_dict_of_a_file_is_taken_whatever_its_key(tmp_path):
    torch.save({"generator": STATE, "steps": 3}, tmp_path / "model.pt")
    assert same(read_weights(tmp_path / "model.pt"), STATE)


def test_a_pickled_module_is_named(tmp_path):
    torch.save(network(), tmp_path / "model.pt")
    assert "holds torch.nn.modules.container.Sequential, which would have to be run to be read" in refusal(
        tmp_path / "model.pt"
    )
    torch.save({"model": network()}, tmp_path / "model.pt")
    assert "save its state dict alone" in refusal(tmp_path / "model.pt")


def sharded(folder, weight_map):
    first, second = list(STATE)[:3], list(STATE)[3:]
    save_file({name: STATE[name] for name in first}, folder / "model-00001-of-00002.safetensors")
    save_file({name: STATE[name] for name in second}, folder / "model-00002-of-00002.safetensors")
    right = {name: f"model-0000{1 + (name in second)}-of-00002.safetensors" for name in STATE}
    text = json.dumps({"weight_map": weight_map(right)}) if callable(weight_map) else weight_map
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def test_a_model_in_several_files(tmp_path):
    assert same(read_weights(sharded(tmp_path, lambda right: right)), STATE)


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        (lambda right: {**right, "1.bias": "model-00009-of-00002.safetensors"}, "1 of the 3 files that it names"),
        (lambda right: {**right, "extra": "model-00001-of-00002.safetensors"}, "'extra' is in model-00001"),
        (lambda right: {**right, "1.bias": "../model.safetensors"}, "is not the index of a model"),
        (lambda right: {**right, "1.bias": "/etc/hostname"}, "is not the index of a model"),
        (lambda right: {**right, "1.bias": ".."}, "is not the index of a model"),
        (lambda right: {**right, "1.bias": ""}, "is not the index of a model"),
        (lambda right: {**right, "1.bias": "a\nb"}, "is not the index of a model"),
        (lambda right: {**right, "1.bias": "x" * 5000}, "1 of the 3 files that it names"),
        (lambda right: dict.fromkeys(right, "loop"), "1 of the 1 files that it names"),
        (lambda right: {**right, "a\nb": "model-00001-of-00002.safetensors"}, r"'a\nb' is in model-00001-of-00002"),
        (
            lambda right: {**right, "0.bias": "model-00002-of-00002.safetensors"},
            "'0.bias' is in model-00002-of-00002.safetensors, but model-00001-of-00002.safetensors has it",
        ),
        (lambda right: {**right, "1.bias": 3}, "is not the index of a model"),
        (lambda right: list(right), "is not the index of a model"),
        (lambda right: {}, "is not the index of a model"),
        ("{", "is not the index of a model"),
        ("[" * 100_000, "is not the index of a model"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_named(tmp_path, weight_map, said):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ModelError) as caught:
        read_weights(sharded(tmp_path, weight_map))
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{tmp_path / 'model.safetensors.index.json'}: ")
    assert said in str(caught.value)
    assert "download" in str(caught.value)


def test_the_classes_of_a_header():
    assert class_names_of({}) is None
    assert class_names_of({"class_names": '["cat", "dog"]'}) == ["cat", "dog"]
    assert class_names_of({"class_names": "cat\ndog"}) == ["cat", "dog"]
    for text in ("[cat, dog]", "cat, dog", '{"0": "cat"}', "[1, 2]", "[" * 100_000):
        with pytest.raises(ValueError, match="is no list of names in JSON"):
            class_names_of({"class_names": text})


def test_the_command_line_offers_the_choices_of_the_library():
    from pipeline.commands.import_ import WEIGHTS

    assert WEIGHTS == WEIGHTS_CHOICES
