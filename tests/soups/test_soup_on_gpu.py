"""What a step asks of a GPU, counted on the stand-in device."""

from itertools import pairwise

import pytest
import torch
import torch.distributed.tensor  # before the stand-in takes the place of a class that it names in a type
from soup_models import fine_tuned, fit_images, save
from standin import standin
from torch import nn

from pipeline.soups import IngredientSet, MehlSettings, mehl_soup

LAYERS, WIDTH = 12, 64
STEPS = 8


class Marked(nn.Module):
    """Many small tensors; tells of every forward pass."""

    def __init__(self, told):
        super().__init__()
        self.told = told
        self.body = nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))

    def forward(self, images):
        self.told()
        return self.body(images)


@pytest.mark.parametrize("delta_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("layers", ["tensor", "module"])
def test_a_step_waits_for_nothing_and_launches_little_beside_the_model(tmp_path, delta_dtype, layers):
    counted, watched = [], []

    def told():
        counted.extend((log.launches, len(log.syncs)) for log in watched)

    model = Marked(told)
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
        model.to("cuda")
        log.reset()
        loss = nn.functional.cross_entropy(model(images), labels)
        torch.autograd.grad(loss, list(model.parameters()))
        plain = log.launches
    assert len(steps) == len(soup.history) - 1 == STEPS - 1
    assert {waits for _, waits in steps} == {0}
    # Projecting is three launches there and counts as one here (`triton_kernels`); the first step has an optimizer to
    # set up.
    assert {plain < launches <= plain + 20 - 2 for launches, _ in steps[1:]} == {True}
