"""What can be known before a sweep is paid for: what the splits can resolve, and settings that teach little."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.config import ModelConfig
from pipeline.search.sampling import Trial

_Z = 1.96  # of a 95 % interval
_COARSE = 0.1  # an accuracy that is known no better than to ten points chooses nothing
_FEW_STEPS = 50  # Adam's running mean of squared gradients is not settled before
_FINE_TUNING_LR = 3e-4  # below it, networks that start at random move too slowly to learn in the epochs of a sweep


def half_width(num_images: int) -> float:
    """Half of the 95 % interval (Wilson's) of an accuracy of 50 %, its widest, on so many images: a fraction."""
    return _Z / (2 * math.sqrt(num_images + _Z**2))


def resolution(sizes: Mapping[str, int]) -> str:
    """What splits of these ``sizes`` can tell apart, in a line."""
    known = [f"{100 * half_width(sizes[name]):.1f} points on {name}" for name in ("select", "test") if sizes.get(name)]
    return f"an accuracy is known to within {' and '.join(known)} (95 %; less far from 50 %)"


def about_splits(sizes: Mapping[str, int], plural: str) -> Iterator[str]:
    """Warnings about splits of these ``sizes``; ``plural`` is what examples are called."""
    name = "select" if sizes.get("select") else "fit"
    if half_width(sizes[name]) > _COARSE:
        yield (
            f"data.validation_size: the champion is chosen on the {sizes[name]} {plural} of {name}, which tell apart "
            f"what differs by {100 * half_width(sizes[name]):.0f} points or more; raise it (or data.select_fraction)"
        )


def about_trials(trials: Sequence[Trial], num_train: int, model: ModelConfig) -> Iterator[str]:
    """Warnings about ``trials`` of ``model`` on ``num_train`` examples."""
    if larger := sorted({trial.hyper.batch_size for trial in trials if trial.hyper.batch_size > num_train}):
        yield (
            f"search.distributions.batch_size: {', '.join(map(str, larger))} is more than there is to train on; "
            f"{num_train} is taken, so an epoch is one step"
        )
    steps = [trial.hyper.epochs * math.ceil(num_train / trial.hyper.batch_size) for trial in trials]
    if (usual := statistics.median_low(steps)) < _FEW_STEPS:
        yield (
            f"search.distributions: half of the trials take at most {usual} steps, which are few to learn in; lower "
            "batch_size or raise epochs"
        )
    if model.pretrained is None and model.contrastive is None:
        yield (
            "model.pretrained: is not given, so trials start from random weights; soups are made of models that were "
            "fine-tuned from the same pre-trained one: give a tag or a file"
        )
        rates = sorted(trial.hyper.lr for trial in trials)
        if statistics.median(rates) < _FINE_TUNING_LR:
            yield (
                f"search.distributions.lr: {rates[0]:.1g} to {rates[-1]:.1g} is for pre-trained weights; random ones "
                "learn next to nothing with it: draw it from about 1e-3, or give model.pretrained"
            )


def fit_batches(trials: Sequence[Trial], num_train: int) -> list[Trial]:
    """The trials with batches that are no larger than the training set of ``num_train`` examples."""
    return [
        replace(trial, hyper=trial.hyper.model_copy(update={"batch_size": min(trial.hyper.batch_size, num_train)}))
        for trial in trials
    ]
