import pytest
import torch
from safetensors.torch import load_file
from samples import TOWER, model_config, special_files
from sklearn.metrics import f1_score

from pipeline.commands import main
from pipeline.commands.common import known_names
from pipeline.config import load_config
from pipeline.data import load_splits
from pipeline.evaluation import predict
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


def test_the_metric_decides_and_is_told(session_ray, checkpoints, settings, tmp_path, caplog):
    arguments = ["--ingredients", str(checkpoints), "--config", str(settings), "--method", "greedy"]
    with caplog.at_level("INFO", "pipeline"):
        assert main(["soup", *arguments, "--out", str(tmp_path / "soup"), "data.metric=macro_f1"]) == 0
    (told,) = [line for line in caplog.messages if "built in" in line]
    config = load_config(settings, [], known_names)
    model, (images, labels) = build_classifier(config.model, 10), load_splits(config.data, 0).test.tensors()
    model.load_state_dict(load_file(tmp_path / "soup"))
    predictions = predict(model, images, "cpu").argmax(1)
    expected = f1_score(labels, predictions, average="macro", labels=labels.unique(), zero_division=0)
    assert told.startswith("macro F1: fit ")
    assert f"test {100 * expected:.2f}%" in told


def test_checkpoints_that_do_not_fit_are_named(session_ray, checkpoints, settings, tmp_path, caplog):
    arguments = ["--ingredients", str(checkpoints), "--config", str(settings), "--out", str(tmp_path / "soup")]
    with caplog.at_level("INFO", "pipeline"):
        assert main(["soup", *arguments, "--method", "uniform"]) == 0
    assert "stray.safetensors" in caplog.text
    assert "uniform over 3 ingredients" in caplog.text
    assert "test " in caplog.text


def test_checkpoints_of_others_are_souped_too_and_some_can_be_left_out(
    session_ray, checkpoints, settings, tmp_path, caplog
):
    """Of torch.save, wrapped, with averaged weights beside, without counters: as `import` takes them."""
    states = [load_file(path) for path in sorted(checkpoints.glob("[0-9].safetensors"))]
    for path in checkpoints.glob("[0-9].safetensors"):
        path.unlink()
    averaged = {name: value + 1 for name, value in states[0].items()}
    torch.save({"state_dict": states[0], "state_dict_ema": averaged}, checkpoints / "0.pt")
    torch.save({f"module.{name}": value for name, value in states[1].items()}, checkpoints / "1.pt")
    torch.save(states[2], checkpoints / "2.pt")
    (checkpoints / "3.pt").write_bytes(b"<html>")
    save_weights({**states[0], "head.weight": torch.zeros(2**40, 0)}, checkpoints / "4.safetensors", {})
    special_files(checkpoints, ".pt")
    (checkpoints / "optimizer.pt").touch()
    out = tmp_path / "soup.safetensors"
    arguments = ["--ingredients", str(checkpoints), "--config", str(settings), "--method", "uniform", "--out", str(out)]
    with caplog.at_level("INFO", "pipeline"):
        assert main(["soup", *arguments, "soup.leave_out=[2.pt]"]) == 0
    soup = load_file(out)
    assert all(torch.allclose(soup[name], (averaged[name] + states[1][name]) / 2, atol=1e-6) for name in soup)
    for said in (
        "passed over, as no checkpoints: optimizer.pt",
        f"left out: {checkpoints / '2.pt'}: soup.leave_out names it",
        f"left out: {checkpoints / '3.pt'}: is a web page",
        f"left out: {checkpoints / '4.safetensors'}: does not fit the model: has 'head.weight' of shape",
        f"left out: {checkpoints / 'pipe.pt'}: is no file; give a weight file",
        f"left out: {checkpoints / 'loop.pt'}: is a link that leads back to itself",
        f"left out: {checkpoints / 'stray.safetensors'}: has no classification head",
        "averaged weights (state_dict_ema) are taken",
        "uniform over 2 ingredients",
    ):
        assert said in caplog.text


def test_a_soup_is_overwritten_when_asked_alone_and_refusals_come_before_the_work(
    session_ray, checkpoints, settings, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "soup.safetensors"
    out.write_bytes(b"of yesterday")
    arguments = ["--ingredients", str(checkpoints), "--config", str(settings), "--method", "uniform", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.data.load_splits", None)
        assert main(["soup", *arguments]) == 2
        assert "is there already; give another file, or --overwrite to replace it" in capsys.readouterr().err
    assert out.read_bytes() == b"of yesterday"
    assert main(["soup", *arguments, "--overwrite"]) == 0
    assert len(load_file(out)) > 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--method": "wise-ft"}, "'wise-ft' needs theta0"),
        ({"--out": "."}, " is a folder; give a file"),
        ({"--out": "/dev/null"}, "--out: /dev/null is a pipe, a socket or a device; give a file"),
        ({"--out": "{checkpoints}/soup.safetensors"}, "is in the folder of the ingredients"),
        ({"--method": "mehl-pluss"}, "did you mean 'mehl-plus'?"),
        ({"--method": "ensemble"}, "is an ensemble"),
        ({"--ingredients": "nowhere"}, "nowhere is no folder; give a folder of checkpoints"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(
    session_ray, checkpoints, settings, tmp_path, capsys, monkeypatch, change, said
):
    options = {"--ingredients": str(checkpoints), "--config": str(settings), "--out": str(tmp_path / "soup")}
    change = {option: text.format(checkpoints=checkpoints) for option, text in change.items()}
    monkeypatch.setattr("pipeline.data.load_splits", None)  # refused before the work
    assert main(["soup", *(text for option in (options | change).items() for text in option)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "soup").exists()
