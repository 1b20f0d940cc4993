import copy
import dataclasses
import io
import math
import shutil
import subprocess
import sys

import pytest
import torch
from samples import DIGIT_NAMES, digit_images, digit_splits, hyperparameters, model_config, search_config
from torch.nn import functional as F

from pipeline.errors import TrialRejected
from pipeline.evaluation import accuracy, predict
from pipeline.finetune import TRAINERS, finetune
from pipeline.models import build_classifier, make_theta0
from pipeline.schedule import learning_rate
from pipeline.testing import check_trainer

SETTINGS = search_config()


@pytest.fixture(scope="module")
def splits():
    return digit_splits()


@pytest.fixture(scope="module")
def theta0():
    images = digit_images(500, 700)
    return make_theta0(model_config(head="random"), DIGIT_NAMES, images, None, device="cpu", seed=0).state_dict()


def fresh(theta0, **settings):
    model = build_classifier(model_config(**settings), 10)
    model.load_state_dict(theta0)
    return model


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("name", TRAINERS)
def test_every_training_function_keeps_its_contract(name, tmp_path):
    check_trainer(TRAINERS[name], tmp_path)


def test_fine_tuning_learns_and_measures_each_split(splits, theta0):
    model = fresh(theta0)
    images, labels = splits.train.tensors()
    before = predict(model, images, "cpu")
    done = finetune(model, splits, hyperparameters(lr=1e-2, epochs=16), SETTINGS, device="cpu")
    after = predict(model, images, "cpu")
    assert F.cross_entropy(after, labels) < 0.8 * F.cross_entropy(before, labels)
    assert accuracy(after, labels) > accuracy(before, labels) + 0.1
    for name in ("fit", "select", "test"):
        split_images, split_labels = getattr(splits, name).tensors()
        measured = accuracy(predict(model, split_images, "cpu"), split_labels)
        assert getattr(done, {"fit": "val"}.get(name, name) + "_accuracy") == measured
    assert done.images_seen == 16 * len(splits.train)
    assert done.peak_memory_bytes is None


@pytest.mark.parametrize(
    "drawn",
    [
        {},
        {"augmentation": "randaugment", "randaugment_m": 10, "randaugment_n": 2, "mixup": 0.4, "label_smoothing": 0.1},
    ],
    ids=["minimal", "everything"],
)
def test_same_seed_same_bits_other_seed_other_bits(splits, theta0, drawn):
    states = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed * 100 + len(states))  # what went before must not matter
        model = fresh(theta0)
        finetune(model, splits, hyperparameters(seed=seed, **drawn), SETTINGS, device="cpu")
        states.append(model.state_dict())
    assert_same(states[0], states[1])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


def losses(theta0, splits, *, lr=3e-3, **settings):
    went = []
    finetune(
        fresh(theta0),
        splits,
        hyperparameters(lr=lr),
        search_config(**settings),
        device="cpu",
        on_epoch=lambda epoch, _: went.append(epoch.train_loss),
    )
    return went


@pytest.mark.system
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_a_compiled_model_trains_alike(splits, theta0):
    from torch._dynamo.utils import counters  # slow to import

    eager = losses(theta0, splits)
    counters.clear()
    assert losses(theta0, splits, compile=True) == pytest.approx(eager, rel=1e-3)
    assert counters["stats"]["unique_graphs"] >= 1, "nothing was compiled"


def test_a_model_trains_alike_in_bfloat16(splits, theta0):
    default, full, lower = (
        losses(theta0, splits, lr=1e-5, precision=precision) for precision in (None, "float32", "bfloat16")
    )
    assert default == full
    assert lower == pytest.approx(full, rel=2e-2)
    assert lower != full, "nothing was computed in bfloat16"
    lower_run = dataclasses.replace(splits, precision="bfloat16")
    assert losses(theta0, lower_run, lr=1e-5) == lower, "steps are in the arithmetic of the run"
    assert losses(theta0, lower_run, lr=1e-5, precision="float32") == full, "unless the search has its own"


@pytest.mark.parametrize(("stop_after", "ema_decay"), [(1, 0), (2, 0), (1, 0.9)])
def test_an_interrupted_and_resumed_trial_gives_the_same_bits(splits, theta0, stop_after, ema_decay):
    hyper = hyperparameters(epochs=3, mixup=0.3, cutmix=0.5, ema_decay=ema_decay)
    whole = fresh(theta0)
    expected = finetune(whole, splits, hyper, SETTINGS, device="cpu")
    saved = io.BytesIO()

    def interrupt(epoch, state):
        if epoch.epoch == stop_after:
            torch.save(state, saved)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(fresh(theta0), splits, hyper, SETTINGS, device="cpu", on_epoch=interrupt)
    saved.seek(0)
    epochs = []
    model = fresh(theta0)
    done = finetune(
        model,
        splits,
        hyper,
        SETTINGS,
        device="cpu",
        resume=torch.load(saved, weights_only=True),
        on_epoch=lambda epoch, state: epochs.append(epoch.epoch),
    )
    assert epochs == list(range(stop_after + 1, 4))
    assert_same(model.state_dict(), whole.state_dict())
    assert done == expected


def test_each_epoch_tells_how_it_went(splits, theta0):
    epochs = []
    hyper = hyperparameters(epochs=3, lr=1e-3)
    finetune(fresh(theta0), splits, hyper, SETTINGS, device="cpu", on_epoch=lambda epoch, _: epochs.append(epoch))
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]
    assert epochs[0].train_loss > epochs[-1].train_loss > 0
    steps = math.ceil(len(splits.train) / hyper.batch_size)  # of an epoch; recorded is the rate of its last
    expected = [learning_rate(1e-3, n * steps - 1, 3 * steps, warmup=SETTINGS.warmup_fraction) for n in (1, 2, 3)]
    assert [epoch.learning_rate for epoch in epochs] == expected
    assert hyper.lr > expected[1] > expected[2] > 0
    assert all(0 < epoch.data_wait < 1 and epoch.images_per_second > 0 for epoch in epochs)


def test_the_moving_average_of_the_weights_is_what_comes_out(splits, theta0):
    steps = []
    hyper = hyperparameters(epochs=4, batch_size=len(splits.train), ema_decay=0.75)  # a step is an epoch
    model = fresh(theta0)
    finetune(
        model,
        splits,
        hyper,
        SETTINGS,
        device="cpu",
        on_epoch=lambda _, state: steps.append(copy.deepcopy(state["model"])),
    )
    average = steps[0]
    for state in steps[1:]:
        average = {name: 0.75 * average[name] + 0.25 * state[name] for name in average}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, average[name])
    assert not torch.equal(model.state_dict()["head.weight"], steps[-1]["head.weight"])


def test_a_diverging_trial_is_rejected_with_its_epoch_and_learning_rate(splits, theta0):
    with pytest.raises(TrialRejected, match=r"not finite in epoch [12] \(learning rate 1e\+30\)"):
        finetune(fresh(theta0), splits, hyperparameters(lr=1e30, epochs=2), SETTINGS, device="cpu")


def test_weights_that_are_not_finite_after_a_finite_loss_are_rejected(theta0):
    # One step in all. Logits near the largest float32 are equal, so the loss is finite; the step takes some beyond it.
    one_step = digit_splits(train=16)
    theta0 = {**theta0, "head.bias": torch.full((10,), 3.3e38)}
    with pytest.raises(TrialRejected, match="weights are not finite in epoch 1"):
        finetune(fresh(theta0), one_step, hyperparameters(lr=3e37, weight_decay=0.0, epochs=1), SETTINGS, device="cpu")


def test_batchnorm_trains_where_the_last_batch_would_be_one_image():
    torch.manual_seed(0)
    model = build_classifier(model_config(backbone="torchvision", name="resnet18"), 10)
    done = finetune(model, digit_splits(train=33), hyperparameters(epochs=1, batch_size=32), SETTINGS, device="cpu")
    assert done.images_seen == 33


def test_every_image_is_seen_once_per_epoch_in_batches_of_at_most_the_size(theta0, monkeypatch):
    splits = digit_splits(train=70)
    seen = []

    def augment(images, hyper, generator):
        seen.append(images.clone())
        return images

    monkeypatch.setattr("pipeline.data.augmentation.augment", augment)
    finetune(fresh(theta0), splits, hyperparameters(epochs=2, batch_size=32), SETTINGS, device="cpu")
    sizes = [len(batch) for batch in seen]
    assert max(sizes) <= 32
    assert sum(sizes) == 140
    for epoch in (seen[:3], seen[3:]):
        rows = sorted(image.numpy().tobytes() for image in torch.cat(epoch))
        assert rows == sorted(image.tobytes() for image in splits.train.inputs)
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))


def test_an_empty_select_split_has_no_accuracy(theta0):
    done = finetune(fresh(theta0), digit_splits(select=0), hyperparameters(epochs=1), SETTINGS, device="cpu")
    assert done.select_accuracy is None
    assert 0 <= done.val_accuracy <= 1


def test_images_are_only_read(theta0):
    # Those of Ray's object store are read-only: writing to them would end the process.
    splits = digit_splits()
    before = copy.deepcopy(splits.train.inputs)
    splits.train.inputs.flags.writeable = False
    finetune(fresh(theta0), splits, hyperparameters(epochs=1, mixup=0.5), SETTINGS, device="cpu")
    assert (splits.train.inputs == before).all()


@pytest.mark.parametrize(
    ("packages", "foreign"),
    [
        ("pipeline.finetune, pipeline.evaluation, pipeline.models", ("ray", "mlflow")),
        ("pipeline.records, pipeline.config", ("ray", "mlflow", "torch", "numpy", "pyarrow")),
    ],
)
def test_importing_a_part_pulls_in_no_more_than_it_needs(packages, foreign):
    code = f"import sys, {packages}; print([name for name in {foreign!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_of_the_samples_are_the_images_they_claim_to_be():
    images = digit_images(0, 3)
    assert images.inputs.shape == (3, 3, 8, 8)
    assert images.labels.tolist() == [0, 1, 2]
