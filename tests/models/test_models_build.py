import argparse
import copy
import json
import re

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from samples import CLIP, DIGIT_NAMES, TEXT, TOWER, VISION, digit_images, digits_data, model_config
from torch import nn

from pipeline.config import DataConfig
from pipeline.errors import ModelError, PipelineError
from pipeline.models import build_classifier, check_model, make_theta0
from pipeline.models.backbone import load_backbone
from pipeline.weights import save_weights

IMAGES = digit_images(0, 40)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A tiny architecture that open_clip knows by name."""
    folder = tmp_path_factory.mktemp("architectures")
    (folder / "tiny-named.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(folder)
    return "tiny-named"


def theta0(seed=0, **settings):
    return make_theta0(
        model_config(**{"head": "random"} | settings), DIGIT_NAMES, IMAGES, None, device="cpu", seed=seed
    )


def refused(**settings):
    with pytest.raises(ModelError) as caught:
        theta0(**settings)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def assert_tower_is(model, state):
    tower = model.tower.state_dict()
    assert tower.keys() == state.keys()
    renewed = ("running_mean", "running_var", "num_batches_tracked")  # on the training images
    for name, value in state.items():
        assert name.endswith(renewed) or torch.equal(tower[name], value), name


@pytest.mark.parametrize("architecture", [CLIP, TOWER], ids=["with text tower", "without"])
def test_a_small_open_clip_architecture(architecture):
    config = model_config(architecture=architecture)
    model = build_classifier(config, 10)
    assert model(IMAGES.tensors()[0]).shape == (40, 10)
    assert all(name.startswith(("tower.", "head.")) for name in model.state_dict())
    backbone = load_backbone(config, pretrained=True)
    assert (backbone.clip is None) == (architecture is TOWER)
    assert (backbone.tokenize is None) == (architecture is TOWER)
    if backbone.tokenize is not None:
        assert backbone.tokenize(["a digit"]).shape == (1, TEXT["context_length"])


def test_an_open_clip_model_by_name_without_pretrained_weights(named):
    model = theta0(name=named)
    assert model(IMAGES.tensors()[0]).shape == (40, 10)
    assert model.state_dict().keys() == build_classifier(model_config(), 10).state_dict().keys()


def test_logits_take_bytes_and_floats_and_normalise_them():
    model = build_classifier(model_config(mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3]), 10).eval()
    images = IMAGES.tensors()[0]
    torch.testing.assert_close(model(images), model(images.float() / 255))
    seen = []
    model.tower.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([0.5 / 0.1, 0.6 / 0.2, 0.7 / 0.3]))
    assert not {"mean", "std"} & model.state_dict().keys()
    assert torch.allclose(model.features(images).norm(dim=1), torch.ones(40), atol=1e-5)


def test_logit_scale_is_part_of_no_model(named):
    for settings in ({"architecture": CLIP, "head": "zero_shot"}, {"name": named, "head": "zero_shot"}):
        names = [name for name, _ in theta0(**settings).named_parameters()]
        assert not any("logit" in name or "text" in name or "token" in name for name in names)


@pytest.mark.parametrize(
    "wrap", ["plain", "state_dict", "module", "visual safetensors", "prefixed safetensors", "tower"]
)
def test_local_open_clip_weights_in_every_form(tmp_path, wrap):
    torch.manual_seed(3)
    clip = open_clip.model.CLIP(**copy.deepcopy(CLIP))
    state, visual = clip.state_dict(), clip.visual.state_dict()
    match wrap:
        case "plain":
            torch.save(state, path := tmp_path / "clip.pt")
        case "state_dict":
            torch.save({"state_dict": state, "epoch": 3}, path := tmp_path / "clip.pt")
        case "module":
            torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path := tmp_path / "clip.pt")
        case "visual safetensors":
            save_file(visual, path := tmp_path / "tower.safetensors")
        case "prefixed safetensors":
            save_file({f"visual.{k}": v for k, v in visual.items()}, path := tmp_path / "tower.safetensors")
        case "tower":
            torch.save({"model": visual}, path := tmp_path / "tower.pth")
    assert_tower_is(theta0(architecture=CLIP, pretrained=str(path)), visual)


def test_a_tower_alone_has_no_text_for_a_zero_shot_head(tmp_path):
    visual = open_clip.model.CLIP(**copy.deepcopy(CLIP)).visual.state_dict()
    save_file(visual, path := tmp_path / "tower.safetensors")
    message = refused(architecture=CLIP, pretrained=str(path), head="zero_shot")
    assert message.startswith("model.head: 'zero_shot' needs a text tower")
    assert str(path) in message


@pytest.mark.parametrize("wrap", ["pt", "safetensors"])
def test_a_whole_clip_gives_its_tower_to_an_architecture_without_text(tmp_path, wrap):
    clip = open_clip.model.CLIP(**copy.deepcopy(CLIP))
    path = tmp_path / f"clip.{wrap}"
    torch.save(clip.state_dict(), path) if wrap == "pt" else save_file(clip.state_dict(), path)
    assert_tower_is(theta0(architecture=TOWER, pretrained=str(path)), clip.visual.state_dict())


def test_local_weights_are_read_once_for_theta0_and_not_for_other_weights(tmp_path):
    path = tmp_path / "gone.pt"
    assert build_classifier(model_config(pretrained=str(path)), 10)
    message = refused(pretrained=str(path))
    assert message == f"{path}: does not exist; check the path"


def test_unfitting_weights_name_file_and_tensors(tmp_path):
    tower = open_clip.model.CLIP(**copy.deepcopy(CLIP)).visual.state_dict()
    del tower["ln_post.bias"]
    tower["proj"] = torch.zeros(3, 3)
    tower["surplus"] = torch.zeros(1)
    save_file(tower, path := tmp_path / "tower.safetensors")
    message = refused(pretrained=str(path))
    for part in (str(path), "lacks 'ln_post.bias'", "has 'surplus'", "'proj' of shape (3, 3), the model (16, 16)"):
        assert part in message


def test_unknown_open_clip_names_and_tags(named):
    assert "did you mean 'ViT-B-32'?" in refused(name="ViT-B-33")
    assert "'ViT-B-32' has no weights 'openai2'; did you mean 'openai'?" in refused(
        name="ViT-B-32", pretrained="openai2"
    )
    assert "is a tag, but model.architecture needs the path" in refused(pretrained="openai")


@pytest.mark.parametrize(
    "architecture",
    [
        {"embed_dim": 16},
        {"vision_cfg": VISION},
        {"embed_dim": 16, "vision_cfg": {**VISION, "widht": 3}},
        {"embed_dim": 16, "vision_cfg": {**VISION, "head_width": 5}},
        {"embed_dim": 16, "vision_cfg": {**VISION, "layers": "four"}},
        {"embed_dim": 16, "vision_cfg": {**VISION, "patch_size": 0}},
        {"embed_dim": "many", "vision_cfg": VISION},
        {**CLIP, "text": 1},
    ],
)
def test_an_impossible_architecture_is_an_error_of_its_setting(architecture):
    assert refused(architecture=architecture).startswith("model.architecture: open_clip cannot build it: ")


def test_a_network_larger_than_the_machine_is_not_built():
    message = refused(architecture={**CLIP, "vision_cfg": {**VISION, "width": 10**6}})
    assert re.search(r"^model.architecture: open_clip cannot build it: its weights take \d+ GiB, and", message)


def test_a_look_at_the_size_leaves_the_weights_as_they_were():
    torch.manual_seed(0)
    plain = open_clip.model.CLIP(**copy.deepcopy(CLIP)).visual.state_dict()
    torch.manual_seed(0)
    looked_at = load_backbone(model_config(architecture=CLIP), pretrained=True).tower.state_dict()
    assert all(torch.equal(looked_at[name], value) for name, value in plain.items())


def test_more_layers_than_any_network_has_are_not_built():
    for layers in (10**6, [1, 10**6]):
        message = refused(architecture={**CLIP, "vision_cfg": {**VISION, "layers": layers}})
        assert message.startswith("model.architecture: vision_cfg.layers is ")
    assert "text_cfg.layers" in refused(architecture={**CLIP, "text_cfg": {**TEXT, "layers": 10**6}})


@pytest.mark.parametrize(
    ("settings", "image_size", "message"),
    [
        (
            {"architecture": {**CLIP, "vision_cfg": {**VISION, "patch_size": True}}},
            8,
            "data.image_size: the model takes no",
        ),
        ({}, 16, "data.image_size: the model takes no images of 16 x 16 pixels"),
        ({"head": "zero_shot"}, 8, "model.head: 'zero_shot' needs a text tower"),
        ({"contrastive": {}}, 8, "model.contrastive: the backbone has no text tower"),
        ({"backbone": "torchvision", "name": "resnet8"}, 8, "model.name: torchvision has no 'resnet8'"),
        (
            {"backbone": "torchvision", "name": "resnet18", "pretrained": "DEFAUL"},
            8,
            "model.pretrained: 'resnet18' has",
        ),
        ({"pretrained": "/no/such.safetensors"}, 8, "/no/such.safetensors"),
    ],
)
def test_a_model_that_cannot_be_is_known_before_images_are_prepared(settings, image_size, message):
    with pytest.raises(PipelineError, match=f"^{re.escape(message)}"):
        check_model(model_config(**settings), digits_data(image_size))


def test_a_model_that_can_be_is_not_downloaded_for_a_look_at_it(monkeypatch):
    check_model(model_config(), digits_data(8))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *arguments, **options: pytest.fail("downloads"))
    check_model(model_config(backbone="torchvision", name="resnet18", pretrained="DEFAULT"), digits_data(32))


@pytest.mark.parametrize(("name", "dim"), [("resnet18", 512), ("mobilenet_v3_small", 1024)])
def test_the_last_layer_of_a_torchvision_network_is_replaced(name, dim):
    model = build_classifier(model_config(backbone="torchvision", name=name), 7).eval()
    assert model.head.in_features == dim
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 7)
    assert not model.normalize_features


@pytest.mark.parametrize("settings", [{}, {"backbone": "torchvision", "name": "resnet18"}], ids=["open_clip", "resnet"])
def test_a_soup_of_another_run_is_a_starting_point(tmp_path, settings):
    soup = build_classifier(model_config(head="random", **settings), 3)
    save_weights(soup.state_dict(), path := tmp_path / "soup.safetensors", {})
    found = theta0(pretrained=str(path), **settings)
    assert_tower_is(found, soup.tower.state_dict())
    assert found.head.out_features == len(DIGIT_NAMES)


def test_local_torchvision_weights_with_a_head_of_other_classes(tmp_path):
    import torchvision

    torch.manual_seed(5)
    network = torchvision.models.resnet18(num_classes=3)
    torch.save(network.state_dict(), path := tmp_path / "resnet.pt")
    model = theta0(backbone="torchvision", name="resnet18", pretrained=str(path))
    network.fc = nn.Identity()
    assert_tower_is(model, network.state_dict())
    message = refused(backbone="torchvision", name="resnet34", pretrained=str(path))
    assert str(path) in message
    assert "lacks '" in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "resnet81"}, "torchvision has no 'resnet81'; did you mean 'resnet18'?"),
        ({"name": "resnet18", "pretrained": "IMAGENET"}, "has no weights 'IMAGENET'; did you mean 'IMAGENET1K_V1'?"),
        ({"name": "squeezenet1_0"}, "has no linear layer"),
        ({"architecture": TOWER}, "only backbone 'open_clip' takes one"),
        ({"name": "resnet18", "head": "zero_shot"}, "'zero_shot' needs a text tower"),
    ],
)
def test_torchvision_errors(settings, said):
    assert said in refused(backbone="torchvision", **settings)


def test_weights_that_cannot_be_downloaded_are_an_error_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    message = refused(backbone="torchvision", name="resnet18", pretrained="IMAGENET1K_V1")
    assert "could not be downloaded (Name or service not known); give the path of a local weight file" in message


def test_weights_that_were_trained_with_another_activation_are_refused():
    assert refused(name="ViT-B-32", pretrained="openai").endswith("trained with QuickGELU; use 'ViT-B-32-quickgelu'")


def test_a_timm_network_without_its_classifier(tmp_path):
    import timm

    torch.manual_seed(5)
    network = timm.create_model("resnet10t", num_classes=3)
    torch.save({"state_dict": network.state_dict(), "args": argparse.Namespace(lr=1)}, path := tmp_path / "timm.pt")
    model = theta0(backbone="timm", name="resnet10t", pretrained=str(path))
    network.reset_classifier(0)
    assert_tower_is(model, network.state_dict())
    assert model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, len(DIGIT_NAMES))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "resnet10"}, "timm has no 'resnet10'; did you mean 'resnet10t'?"),
        ({"name": "resnet10t", "pretrained": "c3_im1k"}, "has no weights 'c3_im1k'; did you mean 'c3_in1k'?"),
        ({"name": "deit_tiny_distilled_patch16_224"}, "has no single linear layer"),
        ({"architecture": TOWER}, "only backbone 'open_clip' takes one"),
        ({"name": "resnet10t", "pretrained": "c3_in1k"}, "could not be downloaded"),
    ],
)
def test_timm_errors(settings, said):
    assert said in refused(backbone="timm", **settings)


def test_a_model_of_images_takes_no_texts():
    data = DataConfig.model_construct(source="text_table", max_length=8)
    said = "model.backbone: 'open_clip' takes images, but source 'text_table' holds texts; take another"
    with pytest.raises(ModelError, match=f"^{re.escape(said)}"):
        check_model(model_config(), data)
