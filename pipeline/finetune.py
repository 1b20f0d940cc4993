"""One ingredient, from settings to weights. Knows no Ray and no MLflow: it runs wherever PyTorch does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pipeline.config import SearchConfig
from pipeline.data import KINDS, Splits
from pipeline.errors import TrialRejected
from pipeline.evaluation import split_accuracies
from pipeline.precision import arithmetic
from pipeline.records import EpochRecord, Hyperparameters
from pipeline.schedule import learning_rate

# What goes on from the last saved epoch: plain tensors and numbers, loadable with `weights_only=True`.
TrainState = dict[str, Any]


@dataclass(frozen=True)
class Finetuned:
    """Accuracies of the fine-tuned model (`select` is None for an empty split) and what was used for it."""

    val_accuracy: float
    select_accuracy: float | None
    test_accuracy: float
    images_seen: int
    peak_memory_bytes: int | None


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

    Cosine learning rate after a warm-up, clipped gradients, augmentation, mixup and CutMix (see `Kind.batch`), label
    smoothing, channels-last convolutions on GPUs. Steps compute in ``settings.precision``; where none is set in
    ``splits.precision``, in which the model is evaluated. With ``hyper.ema_decay`` the moving average of the weights is
    what comes out. ``on_epoch`` gets how an epoch went and a state to ``resume`` from, with which the result is the
    same as without the interruption: everything random in an epoch is seeded by (seed, epoch).

    Raises TrialRejected when the loss or a weight is not finite.
    """
    model.to(device)
    if device == "cuda":
        model.to(memory_format=torch.channels_last)
        torch.cuda.reset_peak_memory_stats()
    optimizer = torch.optim.AdamW(model.parameters(), lr=hyper.lr, weight_decay=hyper.weight_decay)
    average = None
    if hyper.ema_decay:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(hyper.ema_decay), use_buffers=True)
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
    accuracies = split_accuracies(model, splits, device)
    return Finetuned(
        val_accuracy=accuracies["fit"] or 0.0,
        select_accuracy=accuracies["select"],
        test_accuracy=accuracies["test"] or 0.0,
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
    start, waited_seconds = time.perf_counter(), 0.0
    steps_per_epoch = math.ceil(len(splits.train) / hyper.batch_size)
    seed = hyper.seed * 1_000_003 + epoch
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)  # dropout and the like
    model.train()
    make_batch = KINDS[splits.kind].batch
    losses = torch.zeros((), device=device)
    # What passes from the end of a step until the next batch is augmented counts as waiting for data; on a GPU that is
    # the time in which the work was queued, not the one in which it is done.
    waits_since = time.perf_counter()
    for step, (inputs, labels) in enumerate(splits.train.epoch(hyper.batch_size, seed)):
        done, steps = epoch * steps_per_epoch + step, hyper.epochs * steps_per_epoch
        rate = learning_rate(hyper.lr, done, steps, warmup=settings.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = rate
        target = F.one_hot(labels.to(device), len(splits.class_names)).float()
        batch, target = make_batch(inputs.to(device, non_blocking=True), target, hyper, generator)
        waited_seconds += time.perf_counter() - waits_since
        with arithmetic(device, settings.precision or splits.precision):
            logits = forward(batch)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=hyper.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.gradient_clip)
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        losses += loss.detach()
        waits_since = time.perf_counter()
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
        data_wait=waited_seconds / seconds,
    )


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
