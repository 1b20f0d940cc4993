"""What a step asks of a GPU, counted on the stand-in device."""

import threading
from itertools import pairwise

import pytest
import torch
import torch.distributed.tensor  # before the stand-in takes the place of a class that it names in a type
from soup_models import fine_tuned, fit_images, save
from standin import standin
from torch import nn

from pipeline.soups import (
    IngredientSet,
    LearnedSettings,
    MehlSettings,
    accuracy_scorer,
    fit_data,
    learned_soup,
    mehl_soup,
)

LAYERS, WIDTH = 12, 64
STEPS = 8


class Marked(nn.Module):
    """Many small tensors; tells of every forward pass."""

    def __init__(self, told, after=nn.Tanh):
        super().__init__()
        self.told = told
        self.body = nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), after())))

    def forward(self, images):
        self.told()
        return self.body(images)


def batchnorm():
    """A layer whose statistics are mixed, and get no gradient."""
    return nn.BatchNorm1d(WIDTH)


@pytest.mark.parametrize("delta_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize(("layers", "after"), [("tensor", nn.Tanh), ("module", nn.Tanh), ("tensor", batchnorm)])
def test_a_step_waits_for_nothing_and_launches_little_beside_the_model(tmp_path, delta_dtype, layers, after):
    counted, watched = [], []

    def told():
        counted.extend((log.launches, len(log.syncs)) for log in watched)

    model = Marked(told, after)
    ingredients = IngredientSet.open(save(tmp_path, fine_tuned(model, 3, spread=0.05)))
    fit = fit_images(size=STEPS * 8, width=WIDTH, classes=WIDTH)
    settings = MehlSettings(
        block_size=3, inner_iterations=STEPS, batch_size=8, delta_dtype=delta_dtype, layers=layers, precision="float32"
    )
    with standin() as log:
        watched.append(log)
        soup = mehl_soup(model, ingredients, fit, settings, device="cuda")
        # From a forward pass to the next: a whole step.
        steps = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(counted)]
        images, labels = fit[0][:8].to("cuda"), fit[1][:8].to("cuda")
        model.to("cuda").eval()
        log.reset()
        loss = nn.functional.cross_entropy(model(images), labels)
        torch.autograd.grad(loss, list(model.parameters()))
        plain = log.launches
    assert len(steps) == len(soup.history) - 1 == STEPS - 1
    assert {waits for _, waits in steps} == {0}
    # Projecting is three launches there and counts as one here (`triton_kernels`); the first step has an optimizer to
    # set up.
    assert {plain < launches <= plain + 20 - 2 for launches, _ in steps[1:]} == {True}


class Batches:
    """Fit images that are streamed, from pageable memory, again and again."""

    def __init__(self, images, labels):
        self.batches = list(zip(images.split(8), labels.split(8), strict=True))

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


@pytest.mark.parametrize("kind", ["on the host", "too big", "streamed"])
def test_images_on_the_host_come_in_one_copy_a_step_that_no_step_waits_for(tmp_path, monkeypatch, kind):
    counted, watched = [], []

    def told():
        counted.extend((len(log.syncs), log.pageable, log.to_device[0]) for log in watched)

    model = Marked(told)
    ingredients = IngredientSet.open(save(tmp_path, fine_tuned(model, 3, spread=0.05)))
    images, labels = fit_images(size=3 * 8, width=WIDTH, classes=WIDTH)
    fit = Batches(images, labels) if kind == "streamed" else (images, labels)
    budget = 16 if kind == "on the host" else None
    if kind == "too big":
        monkeypatch.setattr(fit_data, "_RESIDENT_FRACTION", 0)
    settings = MehlSettings(
        block_size=3, inner_iterations=STEPS, batch_size=8, precision="float32", memory_budget_gib=budget
    )
    expected = mehl_soup(model, ingredients, fit, settings)
    with standin() as log:
        watched.append(log)
        soup = mehl_soup(model, ingredients, fit, settings, device="cuda")
        trial_steps = len(counted) - STEPS  # under a budget one, for the plan
        steps = counted[trial_steps:]
        assert {after[0] - before[0] for before, after in pairwise(steps)} == {0}, "though a new pass begins twice"
        assert steps[-1][1] == steps[0][1], "nothing is from pageable memory"
        # The thread may be a batch ahead at any of them.
        assert steps[-1][2] - steps[0][2] in range(STEPS - 2, STEPS + 1)
    torch.testing.assert_close(soup.coefficients, expected.coefficients, rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", [mehl_soup, learned_soup])
def test_a_soup_that_breaks_leaves_no_thread_behind(tmp_path, monkeypatch, build):
    seen = []

    def told():
        seen.append([thread for thread in threading.enumerate() if thread.name.startswith("feed")])
        if len(seen) == 2:
            raise KeyError

    model = Marked(told)
    ingredients = IngredientSet.open(save(tmp_path, fine_tuned(model, 3, spread=0.05)))
    fit = fit_images(size=300, width=WIDTH, classes=WIDTH)
    monkeypatch.setattr(fit_data, "_RESIDENT_FRACTION", 0)
    with standin(), pytest.raises(KeyError) as held:  # its traceback holds what the soup had
        build(model, ingredients, fit, device="cuda")
    assert held.tb is not None
    assert len(seen[1]) == 1
    assert not seen[1][0].is_alive()


def test_learning_and_scoring_go_over_images_on_the_host_as_over_those_on_the_device(tmp_path, monkeypatch):
    model = Marked(lambda: None)
    ingredients = IngredientSet.open(save(tmp_path, fine_tuned(model, 3, spread=0.05)))
    fit = fit_images(size=30, width=WIDTH, classes=WIDTH)
    settings = LearnedSettings(inner_iterations=5, batch_size=8, precision="float32")

    def results():
        score = accuracy_scorer(model, fit, device="cuda", batch_size=8, precision="float32")
        state = ingredients.state_dict(0)
        scores = [score(state), score(state, at_least=0.9), score.mistakes.tolist()]
        return scores, learned_soup(model, ingredients, fit, settings, device="cuda").coefficients

    with standin() as log:
        expected = results()
        monkeypatch.setattr(fit_data, "_RESIDENT_FRACTION", 0)
        log.reset()
        found = results()
    assert found[0] == expected[0]
    assert torch.equal(found[1], expected[1])
