import pytest
import safetensors
import timm
import torch
import torchvision
from samples import DIGIT_NAMES, digits_data, model_config

from pipeline.models import build_classifier, describe_model
from pipeline.models.export import export_program, export_weights

NETWORKS = [
    ("torchvision", "resnet18"),
    ("torchvision", "mobilenet_v3_small"),
    ("timm", "resnet10t"),
    ("timm", "vit_tiny_patch16_384"),
]


@pytest.mark.parametrize(("backbone", "name"), NETWORKS)
def test_the_library_loads_what_was_exported(tmp_path, backbone, name):
    torch.manual_seed(0)
    config = model_config(backbone=backbone, name=name)
    size = 384 if "384" in name else 32
    model = build_classifier(config, 10).eval()
    description = describe_model(config, digits_data(size), DIGIT_NAMES)
    code = export_weights(model, description, tmp_path / "out")
    export_program(model, description, tmp_path / "out" / "model.pt2")
    names = {"torchvision": torchvision, "timm": timm, "safetensors": safetensors}
    exec(code, names)
    images = torch.rand(3, 3, size, size)
    expected = model(images)
    torch.testing.assert_close(names["model"].eval()(model.prepare(images)), expected)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    torch.testing.assert_close(program(images), expected, atol=1e-4, rtol=1e-4)
    if backbone == "timm":
        assert names["model"].pretrained_cfg["mean"] == list(description.inputs["mean"])
