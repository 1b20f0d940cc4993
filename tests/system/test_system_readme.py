"""The commands of the README, block by block, as a newcomer types them: with small data where it says ``/data``."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from program import ROOT, environment, run_program
from text_samples import texts, write_encoder, write_table

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```sh\n(.*?)```", README, re.DOTALL | re.MULTILINE))
# What is tried elsewhere: `make` by CI, the job and the two servers by tests of their own.
ELSEWHERE = ("make ", "mlflow ui ", "python -m pipeline dashboard")
NOT_HERE = {"Try it", "On a cluster"}
# What a machine without a network, and a test that is to end soon, do otherwise; each must stand in the README.
SMALLER = {
    "torchvision, name: resnet18, pretrained: DEFAULT}": "timm, name: test_resnet, pretrained: {weights}}}",
    "image_size: 224": "image_size: 32",
    "validation_size: 0.1": "validation_size: 0.4",
    "epochs: {randint: [4, 9]}, batch_size: 64": "epochs: 1, batch_size: 16",
    "num_trials: 16": "num_trials: 3",
    "num_trials=24": "num_trials=4",
    "/data": "{folder}/data",
    "/models": "{folder}/models",
}


def smaller(text, folder):
    for there, here in SMALLER.items():
        assert there in README, f"the README says '{there}' no more"
        text = text.replace(there, here.format(folder=folder, weights=folder / "start.pth"))
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A place with the project, data, checkpoints and the README's files of settings."""
    folder = tmp_path_factory.mktemp("newcomer")
    for name in ("pipeline", "configs"):
        (folder / name).symlink_to(ROOT / name)
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for label, name in enumerate(("dark", "light")):
            images = folder / "data" / "mine" / split / name
            images.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(128 * label, 128 * (label + 1), (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(images / f"{number}.png")
        (folder / "data" / "texts").mkdir(exist_ok=True)
        write_table(folder / "data" / "texts" / f"{split}.csv", **texts(10 * count, label))
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), folder / "start.pth")
    (folder / "models").mkdir()
    start = timm.create_model("test_resnet", num_classes=2).state_dict()
    for number in range(3):
        state = {name: value + 0.01 * torch.rand_like(value.float()).to(value.dtype) for name, value in start.items()}
        torch.save(state, folder / "models" / f"model-{number}.pt")
    write_encoder(folder / "models" / "bert")
    hours = "".join(f"model-{number}.pt,{number + 1}\n" for number in range(3))
    (folder / "costs.csv").write_text(f"path,gpu_hours\n{hours}")
    for name, text in re.findall(r"```yaml\n# (\w+\.yaml)\n(.*?)```", README, re.DOTALL):
        (folder / name).write_text(smaller(text, folder))
    return folder


def type_in(folder, heading):
    """Types what a block has, but what is tried elsewhere."""
    lines = [line for line in BLOCKS[heading].splitlines() if not line.startswith(ELSEWHERE)]
    block = smaller("\n".join(lines), folder).replace(". .venv/bin/activate", ":")
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    command = ["bash", "-euxo", "pipefail", "-c", block]
    done = subprocess.run(command, cwd=folder, env=environment(PATH=path), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_images_checkpoints_texts_and_what_comes_after(folder):
    said = type_in(folder, "Your own images")
    assert "4 trials, 3 of them recorded" in said  # the second sweep went on from the first
    assert (folder / "exported").is_dir()
    assert "mehl-plus" in type_in(folder, "Your own checkpoints")
    assert (folder / "soup.safetensors").exists()
    texts = run_program(
        (sys.executable, str(ROOT / "pipeline/run.py")), "--config", str(folder / "texts.yaml"), home=folder
    )
    assert "mehl-plus" in texts.stdout, texts.stderr
    type_in(folder, "While it runs, and after")
    assert "theirs" in (folder / "both.html").read_text()


def test_every_block_is_tried_here_or_elsewhere():
    assert BLOCKS.keys() == {"Your own images", "Your own checkpoints", "While it runs, and after"} | NOT_HERE
