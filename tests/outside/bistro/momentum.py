"""A training function: plain SGD with momentum, which is a hyperparameter of its own."""

import math
import time

import torch
from pydantic import Field
from torch.nn import functional as F

from pipeline.errors import TrialRejected
from pipeline.evaluation import split_figures
from pipeline.finetune import Finetuned, Trainer
from pipeline.records import EpochRecord, Hyperparameters


class MomentumHyperparameters(Hyperparameters):
    momentum: float = Field(ge=0, lt=1)
    """No default: it has to be drawn."""


def train(model, splits, hyper, settings, *, device, resume=None, on_epoch=None):
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), hyper.lr, hyper.momentum, weight_decay=hyper.weight_decay)
    first = 0
    if resume is not None:
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
        first = resume["epoch"]
    for epoch in range(first, hyper.epochs):
        start, losses = time.perf_counter(), []
        seed = hyper.seed * 1_000_003 + epoch
        torch.manual_seed(seed)
        model.train()
        for images, labels in splits.train.epoch(hyper.batch_size, seed):
            loss = F.cross_entropy(model(images.to(device)), labels.to(device), label_smoothing=hyper.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        weights_are_finite = all(parameter.isfinite().all() for parameter in model.parameters())
        if not (math.isfinite(sum(losses)) and weights_are_finite):
            raise TrialRejected(f"loss or weights are not finite in epoch {epoch + 1}")
        if on_epoch is not None:
            record = EpochRecord(
                epoch=epoch + 1,
                train_loss=sum(losses) / len(losses),
                learning_rate=hyper.lr,
                images_per_second=len(splits.train) / (time.perf_counter() - start),
                data_wait=0.0,
            )
            on_epoch(record, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1})
    return Finetuned(
        **split_figures(model, splits, device),
        images_seen=hyper.epochs * len(splits.train),
        peak_memory_bytes=None,
    )


MOMENTUM = Trainer(train, MomentumHyperparameters)
