import pytest
import torch
from safetensors.torch import load_file
from samples import TOWER, model_config

from pipeline.commands import main
from pipeline.models import build_classifier
from pipeline.weights import save_weights, unique_state


@pytest.fixture
def checkpoints(tmp_path):
    """Three models around one starting point and a file that does not fit them."""
    torch.manual_seed(0)
    model = build_classifier(model_config(), 10)
    folder = tmp_path / "checkpoints"
    for number in range(3):
        state = {name: value + 0.01 * torch.randn_like(value) for name, value in unique_state(model).items()}
        save_weights(state, folder / f"{number}.safetensors", {"theta0_sha256": "1" * 64})
    save_weights({"head.bias": torch.zeros(10)}, folder / "stray.safetensors", {})
    return folder


@pytest.fixture
def settings(write_config, tmp_path):
    return write_config(f"""
name: mine
output: {tmp_path}/run
data: {{source: digits, image_size: 8, train_size: 100, validation_size: 100, test_size: 100}}
model: {{backbone: open_clip, architecture: {TOWER}}}
soup: {{settings: {{mehl-plus: {{inner_iterations: 3, block_size: 2}}}}}}
""")


@pytest.mark.parametrize("method", ["uniform", "mehl-plus"])
def test_a_soup_of_a_folder_of_checkpoints(session_ray, checkpoints, settings, tmp_path, capsys, method):
    out = tmp_path / "soup.safetensors"
    arguments = ["--ingredients", str(checkpoints), "--config", str(settings), "--method", method, "--out", str(out)]
    assert main(["soup", *arguments]) == 0
    soup = load_file(out)
    states = [load_file(path) for path in sorted(checkpoints.glob("[0-9].safetensors"))]
    assert soup.keys() == states[0].keys()
    mean = {name: sum(state[name] for state in states) / 3 for name in soup}
    same = [torch.allclose(soup[name], mean[name], atol=1e-6) for name in soup]
    assert all(same) if method == "uniform" else not all(same)
    assert not (tmp_path / "mlflow.db").exists()


def test_checkpoints_that_do_not_fit_are_named(session_ray, checkpoints, settings, tmp_path, caplog):
    arguments = ["--ingredients", str(checkpoints), "--config", str(settings), "--out", str(tmp_path / "soup")]
    with caplog.at_level("INFO", "pipeline"):
        assert main(["soup", *arguments, "--method", "uniform"]) == 0
    assert "stray.safetensors" in caplog.text
    assert "uniform over 3 ingredients" in caplog.text
    assert "test " in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--method": "mehl-pluss"}, "did you mean 'mehl-plus'?"),
        ({"--method": "ensemble"}, "is an ensemble"),
        ({"--ingredients": "nowhere"}, "--ingredients: nowhere holds no *.safetensors files"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(session_ray, checkpoints, settings, tmp_path, capsys, change, said):
    options = {"--ingredients": str(checkpoints), "--config": str(settings), "--out": str(tmp_path / "soup")}
    assert main(["soup", *(text for option in (options | change).items() for text in option)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "soup").exists()
