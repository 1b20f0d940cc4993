import copy

import pytest
import torch
from samples import DIGIT_NAMES, digit_images, model_config
from torch import nn
from torch.nn import functional as F

from pipeline.evaluation import accuracy, predict, recalibration
from pipeline.models import build_classifier, has_batchnorm, recalibrate_batchnorm


class SmallConvNet(nn.Module):
    """Convolutions and BatchNorm, with an input that is uint8 as the pipeline's."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32, momentum=0.2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 10),
        )  # fmt: skip

    def forward(self, images):
        return self.body(images.float() / 255)


@pytest.fixture(scope="module")
def trained():
    """A network that has learned the digits."""
    images, labels = digit_images(0, 600).tensors()
    torch.manual_seed(0)
    network = SmallConvNet().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for _ in range(6):
        for index in torch.randperm(len(labels)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(images[index]), labels[index]).backward()
            optimizer.step()
    return network.eval()


def average(first, second):
    other = second.state_dict()
    return {
        name: (value + other[name]) / 2 if value.is_floating_point() else value
        for name, value in first.state_dict().items()
    }


def test_recalibration_brings_back_the_accuracy_of_an_average(trained):
    first = trained
    images, labels = digit_images(600, 1000).tensors()
    # Statistics far from those of the weights, as averaged ones are for averaged weights.
    soup = copy.deepcopy(first)
    for layer in soup.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean[::2] += 5 * layer.running_var[::2].sqrt()
    before = accuracy(predict(soup, images, "cpu"), labels)
    recalibrate_batchnorm(soup, digit_images(0, 600).tensors()[0], "cpu")
    after = accuracy(predict(soup, images, "cpu"), labels)
    alone = accuracy(predict(first, images, "cpu"), labels)
    assert alone > 0.7
    assert before < alone - 0.2
    assert after > alone - 0.05


def test_recalibration_sets_the_statistics_of_the_images_and_nothing_else(trained):
    soup = SmallConvNet()
    soup.load_state_dict(average(trained, SmallConvNet()))
    soup.train()
    before = copy.deepcopy(soup.state_dict())
    images = digit_images(0, 514).tensors()[0]  # 4 x 128, and two more
    recalibrate_batchnorm(soup, images, "cpu")
    layers = [module for module in soup.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [layer.momentum for layer in layers] == [0.1, 0.2]
    assert not any(module.training for module in soup.modules())
    batches = images.tensor_split(5)  # of nearly equal size: no few images weigh as much as many
    with torch.no_grad():
        outputs = [soup.body[0](batch.float() / 255) for batch in batches]
    mean = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    variance = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(layers[0].running_mean, mean)
    torch.testing.assert_close(layers[0].running_var, variance)
    for name, value in soup.state_dict().items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, before[name]), name
    again = copy.deepcopy(soup.state_dict())
    recalibrate_batchnorm(soup, images, "cpu")  # no randomness: dropout stays off
    assert all(torch.equal(value, again[name]) for name, value in soup.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "count"), [({}, 10), ({"backbone": "torchvision", "name": "resnet18"}, 1)], ids=["vit", "one image"]
)
def test_where_there_are_no_statistics_to_renew_the_model_is_left_as_it_is(settings, count):
    model = build_classifier(model_config(**settings), len(DIGIT_NAMES))
    before = copy.deepcopy(model.state_dict())
    recalibrate_batchnorm(model, digit_images(0, count).tensors()[0], "cpu")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_without_batchnorm_there_is_nothing_to_renew():
    assert recalibration(build_classifier(model_config(), 10), None, "cpu") is None, "no images are needed"
    assert has_batchnorm(SmallConvNet())


def test_predictions_do_not_depend_on_batches_or_the_mode_of_the_model(trained):
    model = copy.deepcopy(trained).train()
    images = digit_images(0, 600).tensors()[0]
    logits = predict(model, images, "cpu")
    assert logits.shape == (600, 10)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(predict(model, images[300:301], "cpu"), logits[300:301])


@pytest.mark.parametrize("backbone", [{}, {"backbone": "torchvision", "name": "resnet18"}], ids=["vit", "resnet"])
def test_no_images_have_no_accuracy_and_logits_without_rows(backbone):
    # `data.select_fraction: 0` leaves the select split empty.
    model = build_classifier(model_config(**backbone), 10)
    logits = predict(model, torch.empty(0, 3, 8, 8, dtype=torch.uint8), "cpu")
    assert logits.shape == (0, 10)
    assert accuracy(logits, torch.empty(0, dtype=torch.int64)) is None


def test_accuracy_is_the_share_of_correct_images():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0]])
    assert accuracy(logits, torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)
