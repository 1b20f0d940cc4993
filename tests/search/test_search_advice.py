"""What is said before a sweep is paid for."""

import pytest
from samples import hyperparameters

from pipeline.config import ModelConfig
from pipeline.search.advice import about_splits, about_trials, fit_batches, half_width, resolution
from pipeline.search.sampling import Trial

PRETRAINED = ModelConfig.model_construct(pretrained="DEFAULT", contrastive=None)
RANDOM = ModelConfig.model_construct(pretrained=None, contrastive=None)


def trials(**varied):
    (name, values), *_ = varied.items()
    return [Trial(index, hyperparameters(**{name: value})) for index, value in enumerate(values)]


@pytest.mark.parametrize(("num_images", "points"), [(5, 33), (100, 9.6), (10_000, 0.98)])
def test_what_an_accuracy_on_so_many_images_is_known_to(num_images, points):
    from scipy.stats import binomtest

    assert 100 * half_width(num_images) == pytest.approx(points, rel=0.02)
    if num_images % 2 == 0:
        wilson = binomtest(num_images // 2, num_images).proportion_ci(method="wilson")
        assert half_width(num_images) == pytest.approx((wilson.high - wilson.low) / 2, rel=1e-3)


def test_the_resolution_of_the_splits_is_a_line():
    line = resolution({"train": 220, "fit": 19, "select": 5, "test": 153})
    assert (
        line == "an accuracy is known to within 33.0 points on select and 7.8 points on test (95 %; less far from 50 %)"
    )
    assert "select" not in resolution({"train": 220, "fit": 24, "test": 153})  # the papers' protocol


def test_a_validation_set_that_chooses_nothing_is_warned_of():
    (warning,) = about_splits({"train": 220, "fit": 19, "select": 5, "test": 153}, "images")
    assert warning.startswith(
        "data.validation_size: the champion is chosen on the 5 images of select, which tell apart"
    )
    (warning,) = about_splits({"train": 220, "fit": 24, "test": 153}, "images")
    assert "the 24 images of fit" in warning
    assert not list(about_splits({"train": 500, "fit": 400, "select": 100, "test": 497}, "images"))


def test_batches_are_no_larger_than_the_training_set():
    drawn = trials(batch_size=[512, 64])
    said = list(about_trials(drawn, 220, PRETRAINED))
    assert said[0] == (
        "search.distributions.batch_size: 512 is more than there is to train on; 220 is taken, so an epoch is one step"
    )
    assert [trial.hyper.batch_size for trial in fit_batches(drawn, 220)] == [220, 64]
    assert [trial.index for trial in fit_batches(drawn, 220)] == [0, 1]


def test_few_steps_are_warned_of():
    assert not list(about_trials(trials(epochs=[4, 10, 16]), 220, PRETRAINED))  # 70 steps
    (said,) = about_trials(trials(epochs=[4, 5, 16]), 220, PRETRAINED)
    assert said.startswith("search.distributions: half of the trials take at most 35 steps")


def test_random_weights_and_rates_for_pretrained_ones_are_warned_of():
    many = 10_000
    first, second = about_trials(trials(lr=[1e-6, 1e-5, 1e-4]), many, RANDOM)
    assert first.startswith("model.pretrained: is not given, so trials start from random weights")
    assert second.startswith("search.distributions.lr: 1e-06 to 0.0001 is for pre-trained weights")
    assert len(list(about_trials(trials(lr=[1e-3, 3e-3]), many, RANDOM))) == 1
    assert not list(about_trials(trials(lr=[1e-6, 1e-5, 1e-4]), many, PRETRAINED))
