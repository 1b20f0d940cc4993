"""A soup asked over HTTP, as `mlflow models serve` starts it from the registry."""

import base64
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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
SIDE = 4000  # the largest image that is read


def png(pixels) -> str:
    return encoded(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))


def encoded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture(scope="module")
def server(finished, tmp_path_factory):
    """Its address, and the program."""
    (port,) = free_ports(1)
    command = [str(MLFLOW), "models", "serve", "--env-manager", "local", "-m", "models:/digits-soup@champion"]
    folder = tmp_path_factory.mktemp("serving")
    # MLflow starts uvicorn by its name, as in a shell in which the environment is active.
    path = f"{MLFLOW.parent}{os.pathsep}{os.environ['PATH']}"
    env = environment(MLFLOW_TRACKING_URI=finished.uri, MLFLOW_DISABLE_TELEMETRY="true", TMPDIR=str(folder), PATH=path)
    env["SOUP_MAX_PIXELS"] = str(SIDE**2)
    with Background([*command, "-h", "127.0.0.1", "-p", str(port)], env, folder / "serve.log") as running:
        wait_for_server(f"http://127.0.0.1:{port}/ping", running, 180)
        yield f"http://127.0.0.1:{port}/invocations", running


@pytest.fixture(scope="module")
def ask(server):
    def ask(images: list[str]) -> list[dict]:
        body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}).encode()
        request = Request(server[0], body, {"Content-Type": "application/json"})
        return json.load(urlopen(request, timeout=60))["predictions"]

    return ask


def test_the_champion_answers_with_the_logits_of_the_process(finished, ask):
    config = load_config(finished.output / "config.yaml", [], known_names)
    splits = load_splits(config.data, config.seed)
    champion = RunRecord.model_validate_json((finished.output / "run.json").read_text()).champion
    model = build_classifier(config.model, len(splits.class_names)).eval()
    state = read_weights(finished.output / "soups" / f"{champion}.safetensors")
    load_weights(model, state, source="champion")
    with torch.inference_mode():
        expected = model(splits.test.tensors()[0][:COUNT])
    answer = ask([png(image) for image in splits.test.inputs[:COUNT]])
    torch.testing.assert_close(torch.tensor([row["logits"] for row in answer]), expected, atol=1e-4, rtol=1e-4)
    assert [row["label"] for row in answer] == [splits.class_names[index] for index in expected.argmax(1)]
    assert [row["probability"] for row in answer] == pytest.approx(expected.softmax(1).amax(1).tolist(), abs=1e-4)


def test_what_is_no_image_is_refused_by_name(finished, ask):
    with pytest.raises(HTTPError) as caught:
        ask([base64.b64encode(b"no image").decode()])
    assert caught.value.code == 400
    assert "image 0: cannot be read" in caught.value.read().decode()


def peak_bytes(running: Background) -> int:
    """The most memory that the server's largest process ever had."""
    found = []
    for process in running.session():
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return max(found)


def test_an_image_of_too_many_pixels_is_refused_undecoded(server, ask):
    image, before = encoded(Image.new("P", (13300, 13300))), peak_bytes(server[1])
    with pytest.raises(HTTPError) as caught:
        ask([image])
    assert caught.value.code == 400
    assert f"image 0: cannot be read (it has more than {SIDE**2} pixels)" in caught.value.read().decode()
    assert peak_bytes(server[1]) - before < 100 * 2**20


def test_large_images_that_come_at_once_are_decoded_in_turn_or_refused(server, ask):
    image, small = encoded(Image.new("RGBA", (SIDE, SIDE))), encoded(Image.new("L", (8, 8)))

    def status(_):
        try:
            ask([image])
        except HTTPError as error:
            return error.code
        return 200

    ask([small])  # the network has its memory before
    before = peak_bytes(server[1])
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(status, range(8)))
    assert {200} <= set(statuses) <= {200, 503}
    assert peak_bytes(server[1]) - before < 16 * SIDE**2 + 100 * 2**20  # of one, where eight took 2 GiB
