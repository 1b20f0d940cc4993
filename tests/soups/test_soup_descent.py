"""Optimizers and schedules of the coefficients."""

import math

import pytest
import torch

from pipeline.soups.descent import Descent


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("adamw", lambda values: torch.optim.AdamW([values], lr=0.1, weight_decay=0.3)),
        ("sgd", lambda values: torch.optim.SGD([values], lr=0.1)),
    ],
)
def test_steps_are_those_of_torch(name, reference):
    ours = torch.randn(4, 3, dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    optimizer, expected = Descent(5, name, weight_decay=0.3).new_optimizer(), reference(theirs)
    for step in range(5):
        gradient = torch.sin(ours * 3 + step)
        theirs.grad = gradient.clone()
        expected.step()
        optimizer.step(ours, gradient, 0.1)
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)


def test_cosine_falls_from_the_learning_rate_towards_zero():
    descent = Descent(8, learning_rate=0.4)
    rates = [descent.rate(step) for step in range(8)]
    assert rates[0] == 0.4
    assert rates[4] == pytest.approx(0.2)
    assert rates[7] == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * 7 / 8)))


def test_warmup_rises_to_the_learning_rate_and_then_falls():
    descent = Descent(10, learning_rate=1.0, warmup=0.2)
    rates = [descent.rate(step) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert sorted(rates[2:], reverse=True) == rates[2:]


def test_constant():
    assert {Descent(3, schedule="constant", learning_rate=0.2).rate(step) for step in range(3)} == {0.2}
