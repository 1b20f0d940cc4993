"""A soup as MLflow serves it, in the process: from the folder alone, with the logits of the classifier."""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor, wait

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import logits_elsewhere, png
from mlflow.exceptions import MlflowException
from PIL import Image
from samples import CLIP, DIGIT_NAMES, add_outside_backbone, digit_images, model_config, served_soup

from pipeline.data.decode import decode
from pipeline.models import build_classifier
from pipeline.registry.serving import save_served_model
from pipeline.weights import save_weights, unique_state

IMAGES = digit_images(0, 70)
BACKBONES = {
    "open_clip": ({"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}, 8),
    "with text tower": ({"architecture": CLIP}, 8),
    "torchvision": ({"backbone": "torchvision", "name": "resnet18"}, 32),
    "timm": ({"backbone": "timm", "name": "resnet10t"}, 32),
    "outside": ({"backbone": "mine", "architecture": {"width": 4}}, 8),
}


@pytest.fixture(autouse=True)
def _outside(monkeypatch, tmp_path):
    add_outside_backbone(monkeypatch, tmp_path)


def served(folder, settings, size):
    """The classifier, and what MLflow makes of its folder."""
    torch.manual_seed(2)
    config = model_config(**settings)
    model = build_classifier(config, 10).eval()
    save_weights(unique_state(model), folder / "model.safetensors", {})
    soup = served_soup(folder / "model.safetensors", config, size)
    save_served_model(folder / "soup", soup)
    return model, mlflow.pyfunc.load_model(str(folder / "soup"))


@pytest.mark.parametrize(("settings", "size"), BACKBONES.values(), ids=BACKBONES)
def test_answers_as_the_classifier(tmp_path, settings, size):
    model, soup = served(tmp_path, settings, size)
    files = [png(image) for image in IMAGES.inputs]
    with torch.inference_mode():
        expected = model(torch.from_numpy(np.stack([decode(file, size) for file in files])))
    answer = soup.predict(pd.DataFrame({"image": files}))
    torch.testing.assert_close(torch.tensor(answer["logits"].tolist()), expected, atol=1e-5, rtol=1e-5)
    assert list(answer["label"]) == [DIGIT_NAMES[index] for index in expected.argmax(1)]
    np.testing.assert_allclose(answer["probability"], expected.softmax(1).amax(1), rtol=1e-4)


def test_answers_where_this_package_is_not(tmp_path):
    model, _ = served(tmp_path, *BACKBONES["open_clip"])
    logits = logits_elsewhere(str(tmp_path / "soup"), [png(image) for image in IMAGES.inputs[:3]], tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(IMAGES.tensors()[0][:3]), atol=1e-5, rtol=1e-5)


def test_soups_in_one_process_keep_to_the_files_that_they_were_shipped_with(tmp_path, monkeypatch):
    add_outside_backbone(monkeypatch, tmp_path, "theirs", ("nn.ReLU()", "nn.Tanh()"))
    for name in ("mine", "theirs"):
        (tmp_path / f"of {name}").mkdir()
        model, soup = served(tmp_path / f"of {name}", {"backbone": name, "architecture": {"width": 4}}, 8)
        answer = soup.predict(pd.DataFrame({"image": [png(IMAGES.inputs[0])]}))
        expected = model(torch.from_numpy(IMAGES.inputs[:1]))
        torch.testing.assert_close(torch.tensor(answer["logits"].tolist()), expected, atol=1e-5, rtol=1e-5)
    assert {path.name for path in tmp_path.glob("of */soup/code/*.py")} == {"backbone.py", "decode.py"}


def test_any_image_is_prepared_as_for_training(tmp_path):
    _, soup = served(tmp_path, *BACKBONES["open_clip"])
    generator = np.random.default_rng(0)
    files = [
        png(generator.integers(256, size=(3, 40, 24), dtype=np.uint8)),
        png(generator.integers(256, size=(9, 30), dtype=np.uint8)),
        png(generator.integers(2**16, size=(20, 20), dtype=np.uint16)),
        turned_and_transparent(generator),
    ]
    ready = [png(decode(file, 8)) for file in files]
    answers = [soup.predict(pd.DataFrame({"image": some}))["logits"].tolist() for some in (files, ready)]
    assert answers[0] == answers[1]


def turned_and_transparent(generator):
    """A WebP file whose EXIF data say that it is to be turned, half of it transparent."""
    pixels = generator.integers(256, size=(16, 24, 4), dtype=np.uint8)
    pixels[:8, :, 3] = 0
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", exif=exif, lossless=True)
    return file.getvalue()


def test_what_is_no_image_is_named(tmp_path):
    _, soup = served(tmp_path, *BACKBONES["open_clip"])
    with pytest.raises(MlflowException, match=r"image 1: cannot be read .*; give the bytes of a JPEG") as caught:
        soup.predict(pd.DataFrame({"image": [png(IMAGES.inputs[0]), b"no image"]}))
    assert caught.value.get_http_status_code() == 400


def refused(soup, files):
    """The HTTP status and what is said."""
    with pytest.raises(MlflowException) as caught:
        soup.predict(pd.DataFrame({"image": files}))
    return caught.value.get_http_status_code(), str(caught.value)


def test_what_whoever_asks_may_send_has_limits(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUP_MAX_PIXELS", "64")
    _, soup = served(tmp_path, *BACKBONES["open_clip"])
    small, large = (png(np.zeros((side, 8), dtype=np.uint8)) for side in (8, 9))
    status, said = refused(soup, [small, large])
    assert status == 400
    assert said.startswith("image 1: cannot be read (it has more than 64 pixels); give ")
    assert said.endswith("of at most 64 pixels")
    model = soup.unwrap_python_model()
    monkeypatch.setattr(sys.modules[type(model.read).__module__], "_PATIENCE", 0)
    with model.read.room.taken(1):
        assert refused(soup, [small]) == (503, "busy with the images of others; ask again later")
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "0")
    assert refused(soup, [small]) == (504, "image 0: the server's --timeout has passed; give fewer images at a time")
    monkeypatch.delenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT")
    assert len(soup.predict(pd.DataFrame({"image": [small]}))) == 1  # what was refused left no trace
    assert len(soup.predict(pd.DataFrame({"image": []}, dtype=object))) == 0
    monkeypatch.setenv("SOUP_MAX_PIXELS", "many")
    with pytest.raises(MlflowException, match=r"^SOUP_MAX_PIXELS: must be a number of pixels \(67108864\), got 'many'"):
        mlflow.pyfunc.load_model(str(tmp_path / "soup"))


def test_an_image_waits_until_there_is_room_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SOUP_MAX_PIXELS", "64")
    _, soup = served(tmp_path, *BACKBONES["open_clip"])
    with ThreadPoolExecutor(1) as pool:
        with soup.unwrap_python_model().read.room.taken(1):
            answer = pool.submit(soup.predict, pd.DataFrame({"image": [png(np.zeros((8, 8), dtype=np.uint8))]}))
            assert wait([answer], 0.1).not_done
        assert len(answer.result(60)) == 1


def test_weights_that_are_not_all_there_are_refused(tmp_path):
    config = model_config()
    state = dict(unique_state(build_classifier(config, 10)))
    del state["tower.ln_post.bias"]
    save_weights(state, tmp_path / "model.safetensors", {})
    save_served_model(tmp_path / "soup", served_soup(tmp_path / "model.safetensors", config, 8))
    with pytest.raises(MlflowException, match=r"differ in tower\.ln_post\.bias; install what"):
        mlflow.pyfunc.load_model(str(tmp_path / "soup"))


def test_the_folder_needs_neither_pickle_nor_this_package(tmp_path):
    served(tmp_path, *BACKBONES["open_clip"])
    names = {str(path.relative_to(tmp_path / "soup")) for path in (tmp_path / "soup").rglob("*") if path.is_file()}
    assert {"MLmodel", "served_model.py", "artifacts/model.safetensors", "artifacts/description.json"} <= names
    assert {"code/open_clip_backbone.py", "code/decode.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".bin"))]
    requirements = (tmp_path / "soup" / "requirements.txt").read_text().splitlines()
    assert "pipeline" not in (tmp_path / "soup" / "served_model.py").read_text()
    assert {line.partition("==")[0] for line in requirements} == {
        "mlflow", "torch", "torchvision", "pillow", "safetensors", "numpy", "pandas", "open_clip_torch",
    }  # fmt: skip
    assert not any("+" in line for line in requirements)
    example = json.loads((tmp_path / "soup" / "serving_input_example.json").read_text())
    assert example["dataframe_split"]["columns"] == ["image"]
