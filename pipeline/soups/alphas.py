"""Optimising the coefficients of one block: optimizer, learning-rate schedule, one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.soups.fit_data import Batch

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Descent:
    """How the coefficients of a block are optimised; see MehlSettings for the fields."""

    optimizer: Optimizer
    learning_rate: float
    weight_decay: float
    schedule: Schedule
    warmup: float
    steps: int
    micro_batch_size: int | None
    precision: Precision | None

    def optimizer_for(self, alpha: Tensor) -> torch.optim.Optimizer:
        """A fresh optimizer: its state begins anew in every outer iteration. Plain sgd knows no weight decay."""
        if self.optimizer == "sgd":
            return torch.optim.SGD([alpha], lr=self.learning_rate)
        return torch.optim.AdamW([alpha], lr=self.learning_rate, weight_decay=self.weight_decay)

    def rate(self, step: int) -> float:
        """Learning rate of step 0 to J - 1: a linear warm-up over its share of the steps, then the schedule."""
        ramp = round(self.warmup * self.steps)
        if step < ramp:
            return self.learning_rate * (step + 1) / ramp
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(self.steps - ramp, 1)))

    def autocast(self, device: str) -> AbstractContextManager[None]:
        """bfloat16 arithmetic on CUDA unless told otherwise; weights and coefficients keep their own types."""
        kind = torch.device(device).type
        lower = self.precision == "bfloat16" or (self.precision is None and kind == "cuda")
        return torch.autocast(kind, torch.bfloat16, enabled=lower)


def soup_gradient(
    model: nn.Module, parameters: Mapping[str, Tensor], batch: Batch, descent: Descent, device: str
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the batch and its gradient by the soup's weights: one graph, of one model.

    ``micro_batch_size`` cuts the batch into parts whose gradients add up to the same.
    """
    images, labels = batch
    part = descent.micro_batch_size or len(labels)
    loss = torch.zeros((), device=labels.device)
    gradients: dict[str, Tensor] = {}
    for start in range(0, len(labels), part):
        chosen = slice(start, start + part)
        with descent.autocast(device):
            logits = model(images[chosen])
        share = len(labels[chosen]) / len(labels)
        part_loss = functional.cross_entropy(_at_least_float32(logits), labels[chosen]) * share
        found = torch.autograd.grad(part_loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, found, strict=True):
            if gradient is None:
                continue
            gradients[name] = gradients[name].add_(gradient) if name in gradients else gradient
        loss = loss + part_loss.detach()
    return loss, gradients


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
