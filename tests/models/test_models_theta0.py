import numpy as np
import open_clip
import pytest
import torch
from samples import CLIP, DIGIT_NAMES, TOWER, digit_images, model_config
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights

from pipeline.errors import ModelError
from pipeline.evaluation import accuracy, predict
from pipeline.models import make_theta0
from pipeline.models.backbone import load_backbone
from pipeline.models.theta0 import captions
from pipeline.weights import weights_sha256

TRAIN = digit_images(0, 500)
TEST = digit_images(500, 900).tensors()
PRETRAIN = digit_images(900, 1200).tensors()
TEMPLATES = ["a photo of the digit {}.", "{}", "the number {} {{by hand}}"]


def theta0(seed=0, pretrain=None, **settings):
    return make_theta0(model_config(**settings), DIGIT_NAMES, TRAIN, pretrain, device="cpu", seed=seed)


def test_the_linear_probe_is_as_good_as_scikit_learns():
    model = theta0(head="linear_probe")
    with torch.no_grad():
        train, test = (model.features(images).numpy().astype(np.float64) for images in (TRAIN.tensors()[0], TEST[0]))
    center, scale = train.mean(0), train.std(0)
    reference = LogisticRegression(max_iter=1000).fit((train - center) / scale, TRAIN.labels)
    expected = reference.score((test - center) / scale, TEST[1])
    found = accuracy(predict(model, TEST[0], "cpu"), TEST[1])
    assert found == pytest.approx(expected, abs=0.02)
    assert found > 0.3
    probabilities = torch.from_numpy(reference.predict_proba((test - center) / scale))
    mine = predict(model, TEST[0], "cpu").softmax(1)
    assert (mine - probabilities).abs().mean() < 0.01


def test_the_zero_shot_head_is_clips_own():
    settings = {"architecture": CLIP, "head": "zero_shot", "templates": TEMPLATES}
    model = theta0(seed=4, **settings)
    torch.manual_seed(4)
    backbone = load_backbone(model_config(**settings), pretrained=True)
    clip, scale = backbone.clip.eval(), backbone.clip.logit_scale.exp()
    captions = [lambda name, template=template: template.replace("{}", name) for template in TEMPLATES]
    classifier = open_clip.build_zero_shot_classifier(clip, backbone.tokenize, DIGIT_NAMES, captions)
    torch.testing.assert_close(model.head.weight, (scale * classifier).T)
    assert not model.head.bias.any()
    pixels = (TEST[0].float() / 255 - model.mean) / model.std
    with torch.no_grad():
        expected = scale * F.normalize(clip.encode_image(pixels), dim=-1) @ classifier
    torch.testing.assert_close(predict(model, TEST[0], "cpu"), expected, rtol=1e-4, atol=1e-4)


def test_a_random_head_is_left_as_it_was_drawn():
    torch.manual_seed(2)
    backbone = load_backbone(model_config(head="random"), pretrained=True)
    drawn = torch.nn.Linear(backbone.feature_dim, 10)
    assert torch.equal(theta0(seed=2, head="random").head.weight, drawn.weight)


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "linear_probe"},
        {"head": "zero_shot", "architecture": CLIP, "contrastive": {"epochs": 1, "batch_size": 100}},
    ],
    ids=["linear probe", "contrastive"],
)
def test_theta0_follows_from_the_seed_alone(settings):
    hashes = []
    for seed in (0, 0, 1):
        torch.manual_seed(100 + len(hashes))  # what went before must not matter
        hashes.append(weights_sha256(theta0(seed, PRETRAIN, **settings).state_dict()))
    assert hashes[0] == hashes[1] != hashes[2]


def test_contrastive_training_makes_zero_shot_heads_better_than_chance():
    architecture = {
        "embed_dim": 32,
        "vision_cfg": {**CLIP["vision_cfg"], "width": 32, "head_width": 16},
        "text_cfg": {**CLIP["text_cfg"], "width": 32, "heads": 2},
    }
    contrastive = {"epochs": 15, "batch_size": 50, "lr": 3e-3}
    model = theta0(0, PRETRAIN, head="zero_shot", architecture=architecture, contrastive=contrastive)
    assert accuracy(predict(model, TEST[0], "cpu"), TEST[1]) > 0.2
    assert not model.training


@pytest.mark.parametrize(
    ("settings", "pretrain", "said"),
    [
        ({"architecture": TOWER, "head": "zero_shot"}, None, "model.head: 'zero_shot' needs a text tower"),
        ({"architecture": TOWER, "contrastive": {"epochs": 1}}, PRETRAIN, "give model.architecture.text_cfg"),
        ({"architecture": CLIP, "contrastive": {"epochs": 1}}, None, "set data.pretrain_size"),
    ],
)
def test_what_the_backbone_cannot_give_is_an_error(settings, pretrain, said):
    with pytest.raises(ModelError, match=said):
        theta0(0, pretrain, **settings)


def test_captions_are_those_of_clip_where_the_classes_are_those_of_imagenet():
    imagenet = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    templates, names = captions(model_config(), imagenet)
    assert (len(templates), len(names)) == (80, 1000)
    assert all("{}" in template for template in templates)
    assert names[2] == "great white shark"
    assert captions(model_config(templates=["my {}"]), imagenet) == (["my {}"], imagenet)
    assert captions(model_config(), ["cat", "dog"]) == (["a photo of a {}."], ["cat", "dog"])
