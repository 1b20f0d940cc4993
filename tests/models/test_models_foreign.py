"""Checkpoints as others write them: the classifier that loads them gives the logits of the model they came from."""

import copy

import open_clip
import pytest
import timm
import torch
import torchvision
from samples import CLIP, VISION, model_config
from torch import nn
from torch.nn import functional as F

from pipeline.models import build_classifier, own_names
from pipeline.models.backbone import load_backbone
from pipeline.weights import load_weights, read_weights, unique_state

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def imported(path, config, classes=10):
    model = build_classifier(config, classes).eval()
    state = own_names(read_weights(path), load_backbone(config, pretrained=False).head_name)
    load_weights(model, state, source=str(path))
    return model


def normalised(model, images):
    return model.prepare(images)


class ModelSoups(nn.Module):
    """As `ModelWrapper` of mlfoundations/model-soups: CLIP without its text transformer, and a head."""

    def __init__(self, clip, classes):
        super().__init__()
        self.model = clip
        self.classification_head = nn.Linear(16, classes)
        del self.model.transformer

    def forward(self, images):
        return self.classification_head(F.normalize(self.model.visual(images), dim=-1))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_model_soups(tmp_path, prefix):
    torch.manual_seed(1)
    wrapped = ModelSoups(open_clip.model.CLIP(**copy.deepcopy(CLIP)), 10).eval()
    torch.save({f"{prefix}{name}": value for name, value in wrapped.state_dict().items()}, tmp_path / "model_0.pt")
    model = imported(tmp_path / "model_0.pt", model_config())
    images = IMAGES[:, :, :8, :8]
    torch.testing.assert_close(model(images), wrapped(normalised(model, images)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_torchvision(tmp_path, name):
    torch.manual_seed(2)
    network = torchvision.models.get_model(name, num_classes=10).eval()
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "last.ckpt")
    model = imported(tmp_path / "last.ckpt", model_config(backbone="torchvision", name=name))
    torch.testing.assert_close(model(IMAGES), network(normalised(model, IMAGES)))


def test_timm_through_torch_compile(tmp_path):
    torch.manual_seed(3)
    network = timm.create_model("resnet10t", num_classes=10).eval()
    state = {f"module._orig_mod.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "arch": "resnet10t"}, tmp_path / "best.pth.tar.pt")
    model = imported(tmp_path / "best.pth.tar.pt", model_config(backbone="timm", name="resnet10t"))
    torch.testing.assert_close(model(IMAGES), network(normalised(model, IMAGES)))


@pytest.mark.parametrize("whole", [True, False], ids=["CLIPModel", "its image half"])
@pytest.mark.parametrize("shards", ["10GB", "10KB"])
def test_transformers_clip(tmp_path, whole, shards):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 2, "projection_dim": 16, "hidden_act": "gelu",
    }  # fmt: skip
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    if whole:
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        theirs = transformers.CLIPModel(config).eval()
    else:
        theirs = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**vision)).eval()
    theirs.save_pretrained(tmp_path / "clip", max_shard_size=shards)
    assert (shards == "10KB") == (tmp_path / "clip" / "model.safetensors.index.json").exists()
    state = own_names(read_weights(tmp_path / "clip"), None)
    assert not any(name.startswith("head.") for name in state)
    ours = build_classifier(model_config(architecture={"embed_dim": 16, "vision_cfg": {**VISION, "layers": 2}}), 10)
    load_weights(ours.eval().tower, {name.removeprefix("tower."): value for name, value in state.items()}, source="")
    images = IMAGES[:, :, :8, :8]
    with torch.inference_mode():
        answer = theirs.get_image_features(pixel_values=images) if whole else theirs(pixel_values=images).image_embeds
        expected = answer if isinstance(answer, torch.Tensor) else answer.pooler_output
        torch.testing.assert_close(ours.tower(images), expected, atol=1e-5, rtol=1e-4)


def test_open_clip_without_a_head(tmp_path):
    clip = open_clip.model.CLIP(**copy.deepcopy(CLIP))
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    state = own_names(read_weights(tmp_path / "clip.pt"), None)
    assert state.keys() == {f"tower.{name}" for name in clip.visual.state_dict()}


def test_our_own_names_stay(tmp_path):
    state = unique_state(build_classifier(model_config(), 10))
    assert own_names(state, None).keys() == state.keys()
