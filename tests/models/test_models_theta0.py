import math

import numpy as np
import open_clip
import pytest
import torch
from samples import (
    CLIP,
    DIGIT_NAMES,
    TOWER,
    digit_images,
    digit_splits,
    hyperparameters,
    model_config,
    search_config,
)
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights

from pipeline.errors import ModelError
from pipeline.evaluation import accuracy, predict
from pipeline.finetune import finetune
from pipeline.models import make_theta0, recalibrate_batchnorm
from pipeline.models.backbone import load_backbone
from pipeline.models.linear_probe import linear_probe
from pipeline.models.theta0 import captions
from pipeline.weights import weights_sha256

TRAIN = digit_images(0, 500)
TEST = digit_images(500, 900).tensors()
PRETRAIN = digit_images(900, 1200).tensors()
TEMPLATES = ["a photo of the digit {}.", "{}", "the number {} {{by hand}}"]


def theta0(seed=0, pretrain=None, **settings):
    return make_theta0(model_config(**settings), DIGIT_NAMES, TRAIN, pretrain, device="cpu", seed=seed)


def test_the_linear_probe_is_scikit_learns_with_a_strength_that_suits_other_images():
    few, others = digit_images(0, 150), digit_images(500, 900)
    train, test = (torch.from_numpy(one.inputs[:, 0].reshape(len(one), -1)).float() / 255 for one in (few, others))
    weight, bias = linear_probe(train, torch.from_numpy(few.labels), 10, seed=0)
    mine = F.linear(test, weight, bias)
    center, scale = train.mean(0), train.var(0).mean().sqrt()
    distances, losses = [], []
    for strength in 10.0 ** np.arange(1, -5.5, -0.5):
        reference = LogisticRegression(C=1 / (strength * len(train)), max_iter=1000)
        reference.fit((train - center) / scale, few.labels)
        found = torch.from_numpy(reference.predict_log_proba((test - center) / scale))
        distances.append((mine.softmax(1) - found.exp()).abs().mean().item())
        losses.append(F.nll_loss(found, torch.from_numpy(others.labels)).item())
    assert min(distances) < 0.005
    chosen = distances.index(min(distances))
    assert losses[chosen] < min(losses) + 0.15
    assert min(losses[0], losses[-1]) > min(losses) + 0.3  # it matters which one is taken
    assert accuracy(mine, torch.from_numpy(others.labels)) > 0.6


def test_columns_that_hardly_vary_get_no_large_weights():
    features = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    labels = (features[:, 0] > 0).long()
    features[:, 4:] = 3 + 1e-7 * features[:, 4:]  # as behind a dead ReLU: rounding noise
    weight, bias = linear_probe(features, labels, 2, 0)
    assert weight[:, 4:].abs().max() < 1e-3
    assert weight[:, 0].abs().min() > 1
    predicted = (features @ weight.T + bias).argmax(1)
    assert (predicted == labels).double().mean() > 0.95


def test_features_that_tell_nothing_leave_the_shares_of_the_classes():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(150, 200, generator=generator), (torch.arange(150) % 3 == 0).long()
    weight, bias = linear_probe(features, labels, 2, 0)
    assert weight.abs().max() < 0.02
    torch.testing.assert_close(bias.softmax(0), torch.tensor([2 / 3, 1 / 3]), atol=0.01, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_few_images_have_a_probe_too(count):
    features = torch.ones(count, 4)  # which do not differ
    weight, bias = linear_probe(features, torch.arange(count) % 2, 3, 0)
    assert torch.isfinite(weight).all()
    assert torch.isfinite(bias).all()


BATCHNORM = {"backbone": "torchvision", "name": "resnet18"}
TIMM = {"backbone": "timm", "name": "test_efficientnet"}  # with BatchNorm too


@pytest.mark.parametrize("count", [40, 244])
@pytest.mark.parametrize(
    "settings",
    [BATCHNORM, {"backbone": "timm", "name": "test_efficientnet"}, {}],
    ids=["resnet", "efficientnet", "vit"],
)
def test_training_starts_at_the_loss_that_evaluation_finds(settings, count, monkeypatch):
    splits = digit_splits(train=count)
    config = model_config(head="linear_probe", **settings)
    model = make_theta0(config, DIGIT_NAMES, splits.train, None, device="cpu", seed=0)
    images, labels = splits.train.tensors()
    evaluated = F.cross_entropy(predict(model, images, "cpu"), labels).item()
    assert evaluated < math.log(10) - 0.2
    monkeypatch.setattr("pipeline.data.augmentation.augment", lambda images, hyper, generator: images)
    losses = []  # of the first epoch, with steps that change nothing
    finetune(
        model,
        splits,
        hyperparameters(lr=1e-12, weight_decay=0, batch_size=64, epochs=1),
        search_config(),
        device="cpu",
        on_epoch=lambda epoch, _: losses.append(epoch.train_loss),
    )
    assert losses == [pytest.approx(evaluated, abs=0.1)]


@pytest.mark.parametrize("head", ["linear_probe", "random"])
def test_theta0_has_the_statistics_of_the_training_images(head):
    model = theta0(head=head, **BATCHNORM)
    statistics = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    recalibrate_batchnorm(model, TRAIN.tensors()[0], "cpu")
    for name, value in model.named_buffers():
        if "running" in name:
            torch.testing.assert_close(value, statistics[name])


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
    pixels = model.prepare(TEST[0])
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
