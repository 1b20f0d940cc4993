"""Gradient descent and AdamW on a few coefficients.

Not torch.optim: its first use loads the compiler, some hundred MB and several seconds for a (b, L) tensor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

OptimizerName = Literal["adamw", "sgd"]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


class Optimizer(Protocol):
    """Moves one tensor against its gradient; keeps its own state."""

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """Update ``values`` in place."""


class Sgd:
    """Plain gradient descent (line 14 of Algorithm 1); knows no weight decay."""

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """Update ``values`` in place."""
        values.sub_(gradient, alpha=rate)


@dataclass
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), with the constants usual in torch.

    Decay draws to ``start``, shaped as the values; None: to zero.
    """

    weight_decay: float
    start: Tensor | None = None
    steps: int = 0
    first: Tensor | None = None
    second: Tensor | None = None

    def step(self, values: Tensor, gradient: Tensor, rate: float) -> None:
        """Update ``values`` in place."""
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.steps += 1
        values.mul_(1 - rate * self.weight_decay)
        if self.start is not None:
            values.add_(self.start, alpha=rate * self.weight_decay)
        self.first.lerp_(gradient, 1 - _BETA_1)
        self.second.mul_(_BETA_2).addcmul_(gradient, gradient, value=1 - _BETA_2)
        root = (self.second.sqrt() / (1 - _BETA_2**self.steps) ** 0.5).add_(_EPSILON)
        values.addcdiv_(self.first, root, value=-rate / (1 - _BETA_1**self.steps))
