"""A soup asked over HTTP, as `mlflow models serve` starts it from the registry."""

import base64
import io
import json
import os
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from program import MLFLOW, Background, environment, free_ports, needs_mlflow, wait_for_server

from pipeline.commands.common import known_names
from pipeline.config import load_config
from pipeline.data import load_splits
from pipeline.models import build_classifier
from pipeline.records import RunRecord
from pipeline.weights import load_weights, read_weights

pytestmark = [pytest.mark.system, pytest.mark.timeout(900), needs_mlflow]
COUNT = 20


def png(pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def ask(finished, tmp_path_factory):
    (port,) = free_ports(1)
    command = [str(MLFLOW), "models", "serve", "--env-manager", "local", "-m", "models:/digits-soup@champion"]
    folder = tmp_path_factory.mktemp("serving")
    # MLflow starts uvicorn by its name, as in a shell in which the environment is active.
    path = f"{MLFLOW.parent}{os.pathsep}{os.environ['PATH']}"
    env = environment(MLFLOW_TRACKING_URI=finished.uri, MLFLOW_DISABLE_TELEMETRY="true", TMPDIR=str(folder), PATH=path)

    def ask(images: list[str]) -> list[dict]:
        body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}).encode()
        request = Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
        return json.load(urlopen(request, timeout=60))["predictions"]

    with Background([*command, "-h", "127.0.0.1", "-p", str(port)], env, folder / "serve.log") as running:
        wait_for_server(f"http://127.0.0.1:{port}/ping", running, 180)
        yield ask


def test_the_champion_answers_with_the_logits_of_the_process(finished, ask):
    config = load_config(finished.output / "config.yaml", [], known_names)
    splits = load_splits(config.data, config.seed)
    champion = RunRecord.model_validate_json((finished.output / "run.json").read_text()).champion
    model = build_classifier(config.model, len(splits.class_names)).eval()
    state = read_weights(finished.output / "soups" / f"{champion}.safetensors")
    load_weights(model, state, source="champion")
    with torch.inference_mode():
        expected = model(splits.test.tensors()[0][:COUNT])
    answer = ask([png(image) for image in splits.test.images[:COUNT]])
    torch.testing.assert_close(torch.tensor([row["logits"] for row in answer]), expected, atol=1e-4, rtol=1e-4)
    assert [row["label"] for row in answer] == [splits.class_names[index] for index in expected.argmax(1)]
    assert [row["probability"] for row in answer] == pytest.approx(expected.softmax(1).amax(1).tolist(), abs=1e-4)


def test_what_is_no_image_is_refused_by_name(finished, ask):
    with pytest.raises(HTTPError) as caught:
        ask([base64.b64encode(b"no image").decode()])
    assert caught.value.code == 400
    assert "image 0: cannot be read" in caught.value.read().decode()
