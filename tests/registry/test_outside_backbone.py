"""A backbone that is no part of the package, from the registered soup to the exported folder."""

import pytest
import torch
import yaml
from elsewhere import logits_elsewhere, png
from safetensors.torch import load_file
from samples import DIGIT_NAMES, add_outside_backbone, config, digit_images, served_soup

from pipeline.commands import main
from pipeline.config import Config
from pipeline.models import build_classifier
from pipeline.records import LineageRecord, SoupRecord
from pipeline.registry import fetch_description, find_soup, log_settings, open_sweep, register_soup
from pipeline.weights import save_weights, unique_state

RECORD = SoupRecord(
    method="greedy", num_ingredients=1, num_selected=1, val_accuracy=0.9, select_accuracy=0.8, test_accuracy=0.7,
    gpu_hours=1.0, construction_seconds=1.0, epochs=0.0, peak_memory_bytes=0, peak_memory_kind="anon",
)  # fmt: skip
LINEAGE = LineageRecord(method="greedy", settings={}, seed=0, learned_on="f" * 64, layers=[], ingredients=[])


@pytest.fixture
def register(monkeypatch, tmp_path, store_uri):
    """Registers a soup of the outside backbone; returns its network, and the command that exports it to a folder."""

    def register(change=("", "")):
        add_outside_backbone(monkeypatch, tmp_path, change=change)
        settings: Config = config(model={"backbone": "mine", "architecture": {"width": 4}})
        sweep = open_sweep(store_uri, "tiny", "sweep-1", tmp_path / "artifacts", {"seed": "3"})
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
        log_settings(sweep, tmp_path / "config.yaml")
        model = build_classifier(settings.model, len(DIGIT_NAMES))
        save_weights(unique_state(model), tmp_path / "model.safetensors", {})
        register_soup(sweep, RECORD, LINEAGE, served_soup(tmp_path / "model.safetensors", settings.model, 8))
        assert fetch_description(find_soup(sweep, "greedy")).network_module == "backbone"
        return model.eval(), ["export", "tiny", "--soup", "greedy", "--tracking-uri", store_uri, "--out"]

    return register


def test_its_soup_answers_where_neither_it_nor_this_package_is(register, tmp_path, store_uri):
    model, _ = register()
    images = digit_images(0, 3)
    files = [png(image) for image in images.inputs]
    (tmp_path / "away").mkdir()
    logits = logits_elsewhere("models:/tiny-soup@greedy", files, tmp_path / "away", MLFLOW_TRACKING_URI=store_uri)
    with torch.inference_mode():
        torch.testing.assert_close(logits, model(images.tensors()[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("out", ["new", "empty", "below/new"])
def test_its_soup_is_exported(register, tmp_path, capsys, out):
    _, command = register()
    (tmp_path / "empty").mkdir()
    inode = (tmp_path / "empty").stat().st_ino
    out = tmp_path / out
    assert main([*command, str(out), "--program"]) == 0
    assert {path.name for path in out.iterdir()} == {"description.json", "mine.pt", "model.pt2"}
    assert not list(tmp_path.rglob("*.partial"))
    assert (tmp_path / "empty").stat().st_ino == inode  # it may be a mount, or where the shell is
    names = {"torch": torch}
    printed = capsys.readouterr().out
    exec(printed[printed.index("state = ") :], names)
    assert printed.endswith("# {}\n")
    state = load_file(tmp_path / "model.safetensors")
    assert names["state"].keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in names["state"].items())
    assert main([*command, str(out)]) == 2
    assert "is there already; give a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("def export", "def other"), "backbone 'mine' cannot export its model (AttributeError: "),
        (("    torch.save", "    1 / 0; torch.save"), "backbone 'mine' cannot export its model (ZeroDivisionError: "),
        (('return "state', 'return None; "state'), "backbone 'mine' cannot export its model (AttributeError: "),
    ],
    ids=["none", "raises", "no code"],
)
def test_an_export_that_fails_is_a_line_and_leaves_nothing(register, tmp_path, capsys, change, said):
    _, command = register(change)
    before = sorted(tmp_path.iterdir())
    (tmp_path / "empty").mkdir()
    for out in ("new", "below/new", "empty"):
        assert main([*command, str(tmp_path / out)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {said}")
        assert len(message.splitlines()) == 1
    assert not list((tmp_path / "empty").iterdir())
    (tmp_path / "empty").rmdir()
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_made_is_a_line(register, tmp_path, capsys):
    _, command = register()
    (tmp_path / "file").touch()
    assert main([*command, str(tmp_path / "file" / "new")]) == 2
    assert f"--out: {tmp_path / 'file' / 'new'} cannot be written" in capsys.readouterr().err
