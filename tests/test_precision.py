"""In which arithmetic models compute, and that the same seed repeats a result, in another process too."""

import copy
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from samples import CLIP, DIGIT_NAMES, digit_images, digit_splits, model_config
from torch import nn
from torch.nn import functional as F

from pipeline.evaluation import accuracy, predict, recalibration, split_figures
from pipeline.models import make_theta0
from pipeline.precision import arithmetic, is_out_of_memory, reproducible, resolved
from pipeline.soups import accuracy_scorer, greedy_ensemble
from pipeline.testing import soup_inputs

# What a trial and a soup task do, one after the other; prints the hashes of all weights.
_LINE = """
import sys
from pathlib import Path

from samples import CLIP, DIGIT_NAMES, digit_splits, hyperparameters, model_config, search_config

from pipeline.evaluation import recalibration
from pipeline.finetune import finetune
from pipeline.models import build_classifier, make_theta0
from pipeline.precision import reproducible
from pipeline.soups import METHODS, IngredientSet, SoupInputs
from pipeline.weights import save_weights, unique_state, weights_sha256

settings, folder, splits = model_config(**eval(sys.argv[1])), Path(sys.argv[2]), digit_splits()

@reproducible
def hashes():
    return list(line())

def line():
    theta0 = make_theta0(settings, DIGIT_NAMES, splits.train, None, device="cpu", seed=1).state_dict()
    yield weights_sha256(theta0)
    model, paths = build_classifier(settings, 10), []
    for seed in (2, 3, 4):
        model.load_state_dict(theta0)
        hyper = hyperparameters(seed=seed, epochs=1, mixup=0.3, augmentation="medium")
        finetune(model, splits, hyper, search_config(), device="cpu")
        yield weights_sha256(unique_state(model))
        paths.append(folder / f"{seed}.safetensors")
        save_weights(unique_state(model), paths[-1], {"theta0_sha256": "0"})
    renew = recalibration(model, splits, "cpu")
    inputs = SoupInputs(model, IngredientSet.open(paths), splits.fit.tensors(), recalibrate=renew)
    for name, changes in {"greedy": {}, "mehl-plus": {"block_size": 2}, "learned": {}}.items():
        yield weights_sha256(METHODS[name](inputs, METHODS[name].settings(changes)).state_dict)

print(*hashes())
"""


@pytest.mark.system
@pytest.mark.parametrize("model", [{}, {"backbone": "torchvision", "name": "resnet18"}], ids=["vit", "resnet"])
def test_the_same_seed_gives_the_same_bits_in_another_process(model, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _LINE, repr(model), str(folder)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for folder in folders
    ]
    one, two = (process.communicate(timeout=300)[0].split() for process in processes)
    assert len(one) == 7
    assert len(set(one)) >= 6, "theta0, trials and soups are different models; greedy may have taken one trial alone"
    assert one == two


def test_bfloat16_is_for_gpus_unless_it_is_set():
    assert [resolved(None, device) for device in ("cpu", "cuda", torch.device("cuda", 1), "mps")] == [
        "float32", "bfloat16", "bfloat16", "float32"
    ]  # fmt: skip
    assert [resolved(name, device) for name in ("float32", "bfloat16") for device in ("cpu", "cuda")] == [
        "float32", "float32", "bfloat16", "bfloat16"
    ]  # fmt: skip


@pytest.fixture(scope="module")
def untrained():
    return make_theta0(
        model_config(head="random"), DIGIT_NAMES, digit_images(0, 50), None, device="cpu", seed=0, precision="float32"
    )


def test_a_model_is_measured_in_the_arithmetic_of_the_run(untrained):
    splits = digit_splits()
    images, labels = splits.test.tensors()
    full, lower = (predict(untrained, images, "cpu", precision) for precision in ("float32", "bfloat16"))
    assert torch.equal(predict(untrained, images, "cpu"), full)
    assert lower.dtype == torch.float32
    assert torch.equal(lower, lower.bfloat16().float())
    torch.testing.assert_close(lower, full, rtol=0.05, atol=0.05)
    measured = {
        precision: split_figures(untrained, dataclasses.replace(splits, precision=precision), "cpu", ["test"])
        for precision in (None, "float32", "bfloat16")
    }
    expected = {None: full, "float32": full, "bfloat16": lower}
    assert measured == {name: {"test_accuracy": accuracy(logits, labels)} for name, logits in expected.items()}


def test_scores_are_those_of_the_evaluation_in_either_arithmetic(untrained, tmp_path):
    images, labels = digit_splits().test.tensors()
    for precision in ("float32", "bfloat16"):
        score = accuracy_scorer(untrained, (images, labels), precision=precision)
        assert score(untrained.state_dict()) == accuracy(predict(untrained, images, "cpu", precision), labels)


def test_statistics_are_those_of_the_arithmetic():
    splits, renewed = digit_splits(), {}
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model.forward = lambda images: nn.Sequential.forward(model, images / 255)
    for precision in (None, "float32", "bfloat16"):
        recalibration(model, dataclasses.replace(splits, precision=precision), "cpu")(model)
        renewed[precision] = model[1].running_var.clone()
    assert torch.equal(renewed[None], renewed["float32"])
    assert not torch.equal(renewed["bfloat16"], renewed["float32"])
    torch.testing.assert_close(renewed["bfloat16"], renewed["float32"], rtol=0.05, atol=1e-4)


@pytest.mark.parametrize("head", ["zero_shot", "linear_probe"])
def test_a_starting_point_is_made_in_the_arithmetic_of_the_run(head):
    config, images = model_config(architecture=CLIP, head=head), digit_images(0, 200)
    full, lower = (
        make_theta0(config, DIGIT_NAMES, images, None, device="cpu", seed=0, precision=precision).head.weight.detach()
        for precision in ("float32", "bfloat16")
    )
    assert full.dtype == lower.dtype == torch.float32
    assert not torch.equal(full, lower)
    assert F.cosine_similarity(full, lower).mean() > 0.8  # features of random weights differ in their last digits alone


def test_members_of_an_ensemble_are_added_in_float32(tmp_path):
    inputs = soup_inputs(tmp_path, count=2)
    model = copy.deepcopy(inputs.model)
    for precision, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        with arithmetic("cpu", precision):
            assert model(inputs.fit[0]).dtype == expected
    ensemble = greedy_ensemble(model, inputs.ingredients, inputs.fit, precision="bfloat16")
    logits = sum(
        float(ensemble.coefficients[k, 0]) * predict_state(model, inputs, k, "bfloat16") for k in ensemble.selected
    )
    assert ensemble.history[-1] == accuracy(logits, inputs.fit[1])


def predict_state(model, inputs, k, precision):
    model.load_state_dict(inputs.ingredients.state_dict(k))
    return predict(model, inputs.fit[0], "cpu", precision)


def test_everything_is_deterministic_within_and_as_it_was_afterwards():
    def settings():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    before = settings()
    assert reproducible(settings)() == (True, False, True, False, False, False, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    with pytest.raises(RuntimeError, match=r"^out of luck$"):
        reproducible(_unlucky)()
    assert settings() == before


def _unlucky():
    raise RuntimeError("out of luck")


def test_what_cannot_be_repeated_is_done_all_the_same_and_named(caplog, recwarn):
    caplog.set_level("INFO", "pipeline")
    calls = []

    def put(value):
        calls.append(torch.is_deterministic_algorithms_warn_only_enabled())
        return torch.zeros(2).put_(torch.tensor([1]), torch.tensor([value])).tolist()

    assert reproducible(put)(3.0) == [0, 3]
    assert calls == [False, True]
    assert caplog.messages == ["put_ is not deterministic on this device: the same seed will not repeat the result"]
    assert not recwarn.list


def test_a_device_without_room_is_told_from_other_errors():
    no_room = [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ]
    assert all(map(is_out_of_memory, no_room))
    others = ["CUDA error: device-side assert triggered", "CUBLAS_STATUS_EXECUTION_FAILED", "mat1 and mat2 shapes"]
    assert not any(is_out_of_memory(RuntimeError(said)) for said in others)
