"""Gradient descent on coefficients: optimizer, learning-rate schedule, and the gradient of the one soup."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.precision import Precision, arithmetic, is_out_of_memory
from pipeline.schedule import Schedule, learning_rate
from pipeline.soups.fit_data import Batch
from pipeline.soups.optimizers import AdamW, Optimizer, OptimizerName, Sgd
from pipeline.soups.settings import Check

log = logging.getLogger("pipeline.soups")

_EPOCHS = 5  # Sec. 4.4 of the MEHL-Soup paper: its 1,000 iterations are five passes over ImageNet's validation images


@dataclass(frozen=True)
class DescentSettings:
    """How coefficients are learned: what the settings of all methods that learn them share."""

    inner_iterations: int | None = None
    """Optimisation steps (in a block: J); none: five passes over the fit images (the paper has 1,000 steps, App. B)."""

    batch_size: int = 128
    """Images in a step; may be all of them. Streamed batches keep their own size."""

    micro_batch_size: int | None = None
    """Images in a forward pass, where a whole batch does not fit; gradients are accumulated."""

    precision: Precision | None = None
    """Arithmetic of learning: float32 or bfloat16 (autocast); none: that of the run, in which soups are scored."""

    learning_rate: float = 0.01
    """Of the coefficients."""

    weight_decay: float = 0.1
    """Decoupled decay of AdamW towards where alpha starts; plain sgd has none."""

    optimizer: OptimizerName = "adamw"
    """``adamw`` or ``sgd``; starts anew in every block."""

    schedule: Schedule = "cosine"
    """``cosine`` to zero or ``constant``, within every block."""

    def check(self, check: Check) -> None:
        """Note what is wrong with these fields."""
        for field in ("inner_iterations", "micro_batch_size"):
            check.integer(field, at_least=1, also=(None,))
        check.integer("batch_size", at_least=1)
        check.one_of("precision", (None, "float32", "bfloat16"))
        check.number("learning_rate", low=0, open_low=True)
        check.number("weight_decay", low=0)
        check.one_of("optimizer", ("adamw", "sgd"))
        check.one_of("schedule", ("cosine", "constant"))

    def descent(self, steps_per_epoch: int, precision: Precision | None, warmup: float = 0.0) -> Descent:
        """How coefficients are optimised, the number of steps and, where none is set, ``precision`` filled in."""
        return Descent(
            steps=self.inner_iterations or _EPOCHS * steps_per_epoch,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            warmup=warmup,
            micro_batch_size=self.micro_batch_size,
            precision=self.precision or precision,
        )


@dataclass(frozen=True)
class Descent:
    """How the coefficients are optimised for ``steps`` steps; see the settings for the other fields."""

    steps: int
    optimizer: OptimizerName = "adamw"
    learning_rate: float = 0.01
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    micro_batch_size: int | None = None
    precision: Precision | None = None

    def new_optimizer(self, start: Tensor | None = None) -> Optimizer:
        """A fresh optimizer for one tensor: its state begins anew in every outer iteration.

        Weight decay draws the values to ``start``; None: to zero.
        """
        return Sgd() if self.optimizer == "sgd" else AdamW(self.weight_decay, start)

    def rate(self, step: int) -> float:
        """Learning rate of step 0 to J - 1."""
        return learning_rate(self.learning_rate, step, self.steps, warmup=self.warmup, schedule=self.schedule)


def soup_gradient(
    forward: Callable[[Tensor], Tensor], parameters: Mapping[str, Tensor], batch: Batch, descent: Descent
) -> tuple[Tensor, dict[str, Tensor], Descent]:
    """Cross-entropy of the batch and its gradient by the parameters it reaches: one graph, of one model.

    ``micro_batch_size`` cuts the batch into parts whose gradients add up to the same: each part's mean loss counts by
    its share of the images. Where the device runs out of memory, it is halved until a part fits.

    Args:
        forward: From images (batch, ...) to logits (batch, classes).
        parameters: What to differentiate by, by name.
        batch: Images and labels (batch,).
        descent: Arithmetic and micro-batches.

    Returns:
        The loss, still on the device, a gradient shaped as its parameter for each that the loss depends on, and
        ``descent`` with the micro-batches that fitted, to go on with.

    Raises:
        torch.OutOfMemoryError: Not even one image fits.
    """
    while True:
        try:
            return *_accumulated(forward, parameters, batch, descent), descent
        except RuntimeError as error:
            part = min(descent.micro_batch_size or len(batch[1]), len(batch[1]))
            if part == 1 or not is_out_of_memory(error):
                raise
            descent = replace(descent, micro_batch_size=math.ceil(part / 2))
            log.info("out of memory with %d images at a time; going on with %d", part, descent.micro_batch_size)
        torch.cuda.empty_cache()  # only now: the error held the tensors of the part that did not fit


def _accumulated(
    forward: Callable[[Tensor], Tensor], parameters: Mapping[str, Tensor], batch: Batch, descent: Descent
) -> tuple[Tensor, dict[str, Tensor]]:
    images, labels = batch
    part = descent.micro_batch_size or len(labels)
    losses: list[Tensor] = []
    gradients: dict[str, Tensor] = {}
    for start in range(0, len(labels), part):
        chosen = slice(start, start + part)
        with arithmetic(labels.device, descent.precision):
            logits = forward(images[chosen])
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        part_loss = functional.cross_entropy(logits, labels[chosen])
        if part < len(labels):
            part_loss = part_loss * (len(labels[chosen]) / len(labels))
        part_gradients = list(torch.autograd.grad(part_loss, list(parameters.values()), allow_unused=True))
        for name in reversed(list(parameters)):  # each is let go of as soon as it is added
            gradient = part_gradients.pop()
            if gradient is None:
                continue
            if name not in gradients:
                gradients[name] = gradient
            elif start == part:  # a sum is ours; what autograd gave may be memory that others share
                gradients[name] = gradients[name] + gradient
            else:
                gradients[name].add_(gradient)
        losses.append(part_loss.detach())
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum(), gradients
