"""One ingredient, from settings to weights. Knows no Ray and no MLflow: it runs wherever PyTorch does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.config import SearchConfig
from pipeline.data import KINDS, Splits
from pipeline.errors import TrialRejected
from pipeline.evaluation import split_figures
from pipeline.precision import arithmetic
from pipeline.records import EpochRecord, Hyperparameters
from pipeline.schedule import learning_rate
from pipeline.soups.feeding import Feed, Rows

# What goes on from the last saved epoch: plain tensors and numbers, loadable with `weights_only=True`.
TrainState = dict[str, Any]


@dataclass(frozen=True)
class Finetuned:
    """Accuracies of the fine-tuned model (`select` is None for an empty split) and what was used for it.

    Where another metric decides (``splits.metric``), scores by that too: `pipeline.evaluation.split_figures` has both.
    """

    val_accuracy: float
    select_accuracy: float | None
    test_accuracy: float
    images_seen: int
    peak_memory_bytes: int | None
    val_score: float | None = None
    select_score: float | None = None
    test_score: float | None = None


def finetune(
    model: nn.Module,
    splits: Splits,
    hyper: Hyperparameters,
    settings: SearchConfig,
    *,
    device: str,
    resume: TrainState | None = None,
    on_epoch: Callable[[EpochRecord, TrainState], None] | None = None,
) -> Finetuned:
    """Fine-tune ``model`` (theta0's weights, changed in place) on ``splits.train`` with AdamW, then evaluate it.

    The learning rate follows ``hyper.schedule`` after a warm-up; clipped gradients, augmentation, mixup and CutMix (see
    `Kind.batch`), label smoothing, channels-last convolutions on GPUs. Steps compute in ``settings.precision``; where
    none is set in ``splits.precision``, in which the model is evaluated. With ``hyper.ema_decay`` the moving average of
    the weights is what comes out. ``on_epoch`` gets how an epoch went and a state to ``resume`` from, with which the
    result is the same as without the interruption: everything random in an epoch is seeded by (seed, epoch).

    Raises TrialRejected when the loss or a weight is not finite.
    """
    model.to(device)
    if device == "cuda":
        model.to(memory_format=torch.channels_last)
        torch.cuda.reset_peak_memory_stats()
    optimizer = torch.optim.AdamW(model.parameters(), lr=hyper.lr, weight_decay=hyper.weight_decay, fused=True)
    average = None
    if hyper.ema_decay:
        average = AveragedModel(model)
    first_epoch = 0
    if resume is not None:
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
        if average is not None:
            average.load_state_dict(resume["average"])
        first_epoch = resume["epoch"]
    forward = torch.compile(model) if settings.compile else model
    for epoch in range(first_epoch, hyper.epochs):
        epoch_record = _train_epoch(model, forward, optimizer, average, splits, hyper, settings, device, epoch)
        if on_epoch is not None:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1}
            on_epoch(epoch_record, state if average is None else {**state, "average": average.state_dict()})
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    return Finetuned(
        **split_figures(model, splits, device),
        images_seen=hyper.epochs * len(splits.train),
        peak_memory_bytes=torch.cuda.max_memory_allocated() if device == "cuda" else None,
    )


def _train_epoch(
    model: nn.Module,
    forward: Callable[[torch.Tensor], torch.Tensor],
    optimizer: torch.optim.Optimizer,
    average: AveragedModel | None,
    splits: Splits,
    hyper: Hyperparameters,
    settings: SearchConfig,
    device: str,
    epoch: int,
) -> EpochRecord:
    start = time.perf_counter()
    steps_per_epoch = math.ceil(len(splits.train) / hyper.batch_size)
    seed = hyper.seed * 1_000_003 + epoch
    torch.manual_seed(seed)  # dropout and the like
    model.train()
    kind = KINDS[splits.kind]
    losses = torch.zeros((), device=device)
    feed = Feed(_drawn(splits, hyper, seed), device)
    with closing(iter(feed)) as batches:
        for step, (inputs, labels, draws) in enumerate(batches):
            done, steps = epoch * steps_per_epoch + step, hyper.epochs * steps_per_epoch
            rate = learning_rate(hyper.lr, done, steps, warmup=settings.warmup_fraction, schedule=hyper.schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate
            target = F.one_hot(labels, len(splits.class_names)).float()
            batch, target = kind.batch(inputs, target, hyper, draws)
            with arithmetic(device, settings.precision or splits.precision):
                logits = forward(batch)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=hyper.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
            optimizer.step()
            if average is not None:
                _add_to(average, model, hyper.ema_decay)
            losses += loss.detach()
    loss_of_epoch = losses.item() / steps_per_epoch
    weights_are_finite = torch.stack([parameter.detach().isfinite().all() for parameter in model.parameters()]).all()
    if not (math.isfinite(loss_of_epoch) and weights_are_finite.item()):
        raise TrialRejected(f"loss or weights are not finite in epoch {epoch + 1} (learning rate {hyper.lr:.3g})")
    seconds = time.perf_counter() - start
    return EpochRecord(
        epoch=epoch + 1,
        train_loss=loss_of_epoch,
        learning_rate=rate,
        images_per_second=len(splits.train) / seconds,
        data_wait=feed.waited_seconds / seconds,
    )


def _drawn(
    splits: Splits, hyper: Hyperparameters, seed: int
) -> Iterator[tuple[torch.Tensor | Rows, torch.Tensor | Rows, Any]]:
    """The batches of an epoch and what is random about each, as a `Feed` takes them."""
    generator, draw = torch.Generator().manual_seed(seed), KINDS[splits.kind].draw
    for inputs, labels in splits.train.epoch(hyper.batch_size, seed, Rows):
        yield inputs, labels, draw(inputs.shape, hyper, generator)


@torch.no_grad()
def _add_to(average: AveragedModel, model: nn.Module, decay: float) -> None:
    """As `AveragedModel.update_parameters`, but that makes the host wait: it copies a count of steps to the device."""
    add = get_ema_multi_avg_fn(decay)
    pairs = list(zip(_weights(average.module), _weights(model), strict=True))
    for floating in (True, False):
        ours, new = ([pair[i] for pair in pairs if pair[0].is_floating_point() == floating] for i in range(2))
        if ours and average.n_averaged == 0:
            torch._foreach_copy_(ours, new)
        elif ours:
            add(ours, new, average.n_averaged)
    average.n_averaged += 1


def _weights(model: nn.Module) -> Iterator[torch.Tensor]:
    return chain(model.parameters(), model.buffers())


class TrainingFunction(Protocol):
    """What fine-tunes: as `finetune`, which says what the arguments are and what it owes to its caller."""

    def __call__(
        self,
        model: nn.Module,
        splits: Splits,
        hyper: Any,
        settings: SearchConfig,
        *,
        device: str,
        resume: TrainState | None = None,
        on_epoch: Callable[[EpochRecord, TrainState], None] | None = None,
    ) -> Finetuned:
        """Fine-tune ``model`` in place by ``hyper``; raises TrialRejected for what can be no ingredient."""
        ...


@dataclass(frozen=True)
class Trainer:
    """A training function and the hyperparameters that it takes: `Hyperparameters`, or a subclass with more of them.

    Of its own ones, those without a default must be drawn (`search.distributions`).
    """

    train: TrainingFunction
    hyperparameters: type[Hyperparameters] = Hyperparameters


# By the name that `search.trainer` gives. A new one is one file and one line, from outside of the package too.
TRAINERS: dict[str, Trainer] = {"finetune": Trainer(finetune)}
