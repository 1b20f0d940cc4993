"""What every line of BACKBONES has to keep, and what is said of a line that does not."""

import pytest
import torch
from samples import DIGIT_NAMES, TOWER, add_outside_backbone, digits_data, model_config

from pipeline.errors import ModelError
from pipeline.models import backbone_file, backbone_module, build_classifier, describe_model, load_backbone
from pipeline.testing import check_backbone
from pipeline.weights import save_weights

SMALL = {
    "open_clip": {"architecture": TOWER},
    "timm": {"name": "test_resnet"},
    "torchvision": {"name": "mobilenet_v3_small"},
    "mine": {"architecture": {"width": 4}},
}
SIZES = {"open_clip": 8}  # of images, others take any


@pytest.fixture
def outside(monkeypatch, tmp_path):
    """Adds the line ``mine``, with a ``change`` to its file."""
    return lambda change=("", ""): add_outside_backbone(monkeypatch, tmp_path, change=change)


@pytest.mark.parametrize("name", SMALL)  # encoders of texts: test_models_transformers.py
def test_every_backbone_keeps_its_contract(name, outside, tmp_path):
    outside()
    config = model_config(backbone=name, **SMALL[name])
    check_backbone(config, digits_data(SIZES.get(name, 32)), tmp_path / "checked")
    assert describe_model(config, digits_data(32), DIGIT_NAMES).network_module == backbone_file(name).stem


def test_a_file_that_needs_this_package_is_found_out(outside, tmp_path):
    outside(("import torch\n", "import torch\nfrom pipeline.models import Backbone\n"))
    with pytest.raises(AssertionError, match="does not build the network without this package"):
        check_backbone(model_config(backbone="mine", **SMALL["mine"]), digits_data(8), tmp_path / "checked")


def test_an_outside_backbone_is_built_and_loads_weights(outside, tmp_path):
    outside()
    config = model_config(backbone="mine", architecture={"width": 4})
    model = build_classifier(config, 3)
    assert model(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, 3)
    save_weights(model.tower.state_dict(), path := tmp_path / "tower.safetensors", {})
    loaded = load_backbone(config.model_copy(update={"pretrained": str(path)}), pretrained=True)
    assert torch.equal(loaded.tower.state_dict()["0.weight"], model.tower.state_dict()["0.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("import torch\n", "import no_such_library\n"), "mine.backbone cannot be imported (ModuleNotFoundError: No module named 'no_such_library'); "),  # noqa: E501
        (("def build(", "def build"), "mine.backbone cannot be imported (SyntaxError: "),
        (("def build(", "def other("), "mine.backbone lacks build; see BackboneModule"),
        (("REQUIREMENTS = ()", ""), "mine.backbone lacks REQUIREMENTS; "),
        (("REQUIREMENTS = ()", "REQUIREMENTS = ('open_clip_touch',)"), "REQUIREMENTS of mine.backbone names 'open_clip_touch', which is not installed; "),  # noqa: E501
    ],
)  # fmt: skip
def test_a_module_that_is_not_whole_is_refused_in_a_line(outside, change, said):
    outside(change)
    with pytest.raises(ModelError) as caught:
        build_classifier(model_config(backbone="mine", architecture={"width": 4}), 3)
    assert str(caught.value).startswith("model.backbone: 'mine': ")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_name_that_is_not_in_the_table_is_refused():
    with pytest.raises(ModelError, match=r"^model.backbone: there is no 'mine' among open_clip, timm, torchvision, "):
        backbone_module("mine")
