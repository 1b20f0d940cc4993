"""What a step of fine-tuning asks of a GPU, counted on the stand-in device, and that its thread changes no result."""

import threading
from itertools import pairwise

import pytest
import torch
import torch.distributed.tensor
from samples import digit_splits, hyperparameters, model_config, search_config
from standin import standin

from pipeline.evaluation import predict
from pipeline.finetune import finetune
from pipeline.models import build_classifier

STEPS = 5
DRAWN = {
    "nothing": {"augmentation": "minimal"},
    "mixup": {"augmentation": "medium", "mixup": 0.4, "ema_decay": 0.9},
    "cutmix": {"augmentation": "medium", "cutmix": 1.0},
    "everything": {
        "augmentation": "strong",
        "randaugment_m": 15,
        "randaugment_n": 2,
        "mixup": 0.4,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "ema_decay": 0.9,
    },
}


def tuned(device, drawn, log=None):
    """The weights after two epochs of `STEPS` steps, and what `log` had counted at each forward pass of theirs."""
    torch.manual_seed(0)
    model, counted = build_classifier(model_config(), 10).to(device), []

    def count(module, images):
        if log is not None and model.training:
            counted.append((len(log.syncs), log.pageable, log.to_device[0]))

    model.register_forward_pre_hook(count)
    if log is not None:
        log.reset()
    hyper = hyperparameters(epochs=2, batch_size=16, **drawn)
    settings = search_config(precision="float32")
    finetune(model, digit_splits(train=16 * STEPS), hyper, settings, device=device)
    return model.cpu().state_dict(), counted


@pytest.mark.parametrize("name", DRAWN)
def test_a_step_waits_for_nothing_and_has_its_batch_in_one_copy(name):
    expected, _ = tuned("cpu", DRAWN[name])
    with standin() as log:
        weights, counted = tuned("cuda", DRAWN[name], log)
    assert len(counted) == 2 * STEPS
    for epoch in (counted[:STEPS], counted[STEPS:]):
        waits = [after[0] - before[0] for before, after in pairwise(epoch)]
        assert waits == [0] * (STEPS - 1), log.syncs
    _, pageable, copies = counted[-1]
    assert (pageable, copies) == (0, 2 * STEPS)
    torch.testing.assert_close(weights, expected, rtol=0, atol=0)


def test_a_trial_that_breaks_leaves_no_thread_behind():
    model, seen = build_classifier(model_config(), 10), []

    def break_it(module, images):
        seen.append([thread for thread in threading.enumerate() if thread.name.startswith("feed")])
        if len(seen) == 2:
            raise KeyError

    model.register_forward_pre_hook(break_it)
    with standin(), pytest.raises(KeyError) as held:  # its traceback holds what the trial had
        finetune(model, digit_splits(train=64), hyperparameters(batch_size=16), search_config(), device="cuda")
    assert held.tb is not None
    assert len(seen[1]) == 1
    assert not seen[1][0].is_alive()


def test_evaluation_waits_once_for_its_predictions():
    model, (images, _) = build_classifier(model_config(), 10), digit_splits(test=300).test.tensors()
    expected = predict(model, images, "cpu")
    with standin() as log:
        model.to("cuda")
        log.reset()
        logits = predict(model, images, "cuda", "float32")
        assert (len(log.syncs), log.pageable, log.to_device[0]) == (1, 0, 3)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
