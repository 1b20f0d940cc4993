"""A soup as MLflow serves it, in the process: from the folder alone, with the logits of the classifier."""

import io
import json

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image
from samples import CLIP, DIGIT_NAMES, digit_images, model_config

from pipeline.data.decode import decode
from pipeline.models import build_classifier, describe_model
from pipeline.registry.serving import save_served_model
from pipeline.weights import save_weights, unique_state

IMAGES = digit_images(0, 70)
BACKBONES = {
    "open_clip": ({"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}, 8),
    "with text tower": ({"architecture": CLIP}, 8),
    "torchvision": ({"backbone": "torchvision", "name": "resnet18"}, 32),
    "timm": ({"backbone": "timm", "name": "resnet10t"}, 32),
}


def png(pixels):
    """A PNG file of uint8 pixels (3, H, W) or (H, W)."""
    file = io.BytesIO()
    Image.fromarray(pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "png")
    return file.getvalue()


def served(folder, settings, size):
    """The classifier, and what MLflow makes of its folder."""
    torch.manual_seed(2)
    config = model_config(**settings)
    model = build_classifier(config, 10).eval()
    save_weights(unique_state(model), folder / "model.safetensors", {})
    described = describe_model(config, size, DIGIT_NAMES)
    assert save_served_model(folder / "soup", folder / "model.safetensors", described) == "artifacts/model.safetensors"
    return model, mlflow.pyfunc.load_model(str(folder / "soup"))


@pytest.mark.parametrize(("settings", "size"), BACKBONES.values(), ids=BACKBONES)
def test_answers_as_the_classifier(tmp_path, settings, size):
    model, soup = served(tmp_path, settings, size)
    files = [png(image) for image in IMAGES.images]
    with torch.inference_mode():
        expected = model(torch.from_numpy(np.stack([decode(file, size) for file in files])))
    answer = soup.predict(pd.DataFrame({"image": files}))
    torch.testing.assert_close(torch.tensor(answer["logits"].tolist()), expected, atol=1e-5, rtol=1e-5)
    assert list(answer["label"]) == [DIGIT_NAMES[index] for index in expected.argmax(1)]
    np.testing.assert_allclose(answer["probability"], expected.softmax(1).amax(1), rtol=1e-4)


def test_any_image_is_prepared_as_for_training(tmp_path):
    _, soup = served(tmp_path, *BACKBONES["open_clip"])
    generator = np.random.default_rng(0)
    files = [
        png(generator.integers(256, size=(3, 40, 24), dtype=np.uint8)),
        png(generator.integers(256, size=(9, 30), dtype=np.uint8)),
        png(generator.integers(2**16, size=(20, 20), dtype=np.uint16)),
    ]
    ready = [png(decode(file, 8)) for file in files]
    answers = [soup.predict(pd.DataFrame({"image": some}))["logits"].tolist() for some in (files, ready)]
    assert answers[0] == answers[1]


def test_what_is_no_image_is_named(tmp_path):
    _, soup = served(tmp_path, *BACKBONES["open_clip"])
    with pytest.raises(MlflowException, match=r"image 1: cannot be read .*; give the bytes of a JPEG or PNG") as caught:
        soup.predict(pd.DataFrame({"image": [png(IMAGES.images[0]), b"no image"]}))
    assert caught.value.get_http_status_code() == 400


def test_weights_that_are_not_all_there_are_refused(tmp_path):
    config = model_config()
    state = dict(unique_state(build_classifier(config, 10)))
    del state["tower.ln_post.bias"]
    save_weights(state, tmp_path / "model.safetensors", {})
    save_served_model(tmp_path / "soup", tmp_path / "model.safetensors", describe_model(config, 8, DIGIT_NAMES))
    with pytest.raises(MlflowException, match=r"differ in tower\.ln_post\.bias; install what"):
        mlflow.pyfunc.load_model(str(tmp_path / "soup"))


def test_the_folder_needs_neither_pickle_nor_this_package(tmp_path):
    served(tmp_path, *BACKBONES["open_clip"])
    names = {str(path.relative_to(tmp_path / "soup")) for path in (tmp_path / "soup").rglob("*") if path.is_file()}
    assert {"MLmodel", "served_model.py", "artifacts/model.safetensors", "artifacts/description.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".bin"))]
    requirements = (tmp_path / "soup" / "requirements.txt").read_text().splitlines()
    assert "pipeline" not in (tmp_path / "soup" / "served_model.py").read_text()
    assert {line.partition("==")[0] for line in requirements} == {
        "mlflow", "torch", "torchvision", "pillow", "safetensors", "numpy", "pandas", "open_clip_torch",
    }  # fmt: skip
    assert not any("+" in line for line in requirements)
    example = json.loads((tmp_path / "soup" / "serving_input_example.json").read_text())
    assert example["dataframe_split"]["columns"] == ["image"]
