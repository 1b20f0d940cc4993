"""Accuracy on the fit images, with an exact early end as soon as the outcome is decided; or another metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from pipeline.metrics import Metric
from pipeline.precision import Precision, arithmetic
from pipeline.soups.fit_data import SCORING_BATCH, Fit, FitData, Preprocess
from pipeline.soups.soup import SoupInputs
from pipeline.soups.workbench import borrowed, copy_into_model


class Score(Protocol):
    """Accuracy (or another score) of a model with these weights, or None once ``at_least`` is out of reach."""

    def __call__(self, state_dict: Mapping[str, Tensor], at_least: float | None = None) -> float | None:
        """Score the weights.

        Args:
            state_dict: The weights.
            at_least: A lower accuracy is of no use to the caller: the score may end early with None.
        """


@dataclass
class AccuracyScorer:
    """A `Score` on given images, which looks at the hard ones first.

    Images that earlier weights got wrong come first: a worse candidate then shows it within the images that are ever
    wrong, not at the end. Accuracy does not depend on the order. Streamed batches come as they are.

    Attributes:
        model: The architecture; keeps its mode and flags, not its weights.
        data: The images and labels.
        batch_size: Images in a forward pass.
        recalibrate: Sets BatchNorm statistics of the loaded model before every pass; None keeps those of the weights.
        precision: Arithmetic of forward passes; None: bfloat16 on CUDA, else the model's own type.
        passes: How often it went over the images so far; a pass that ended early counts by its part.
        mistakes: How often each image (n,) was classified wrongly so far.
    """

    model: nn.Module
    data: FitData
    batch_size: int
    recalibrate: Callable[[nn.Module], None] | None = None
    precision: Precision | None = None
    passes: float = 0.0
    mistakes: Tensor | None = None

    @torch.no_grad()
    def __call__(self, state_dict: Mapping[str, Tensor], at_least: float | None = None) -> float | None:
        """Accuracy of these weights; None as soon as the images left cannot lift it to ``at_least``.

        Args:
            state_dict: The weights.
            at_least: The accuracy that is asked for; None: any.
        """
        total = self.data.num_images
        needed = 0 if at_least is None else smallest_count(at_least, total)
        if self.mistakes is None:
            self.mistakes = torch.zeros(total, dtype=torch.int32)
        order = torch.argsort(self.mistakes, descending=True, stable=True)
        in_order = self.data.tensors is not None
        seen, correct = 0, 0
        with borrowed(self.model, self.data.device):
            copy_into_model(self.model, state_dict)
            if self.recalibrate is not None:
                self.recalibrate(self.model)
                self.model.eval()
            for images, labels in self.data.ordered(self.batch_size, order):
                if correct + total - seen < needed:  # even if all that are left were right
                    break
                with arithmetic(self.data.device, self.precision):
                    logits = self.model(images)
                is_correct = (logits.argmax(dim=-1) == labels).cpu()
                correct += int(is_correct.sum())
                if in_order:
                    self.mistakes[order[seen : seen + len(labels)]] += ~is_correct
                seen += len(labels)
        self.passes += seen / total
        return None if correct + total - seen < needed else correct / total


@dataclass
class MetricScorer:
    """A `Score` by any metric, of the predictions for all images together: nothing ends early.

    Attributes: see `AccuracyScorer`.
    """

    model: nn.Module
    data: FitData
    batch_size: int
    metric: Metric
    recalibrate: Callable[[nn.Module], None] | None = None
    precision: Precision | None = None
    passes: float = 0.0

    @torch.no_grad()
    def __call__(self, state_dict: Mapping[str, Tensor], at_least: float | None = None) -> float:
        """The score of these weights, whatever is asked for."""
        predictions, labels, num_classes = [], [], 0
        with borrowed(self.model, self.data.device):
            copy_into_model(self.model, state_dict)
            if self.recalibrate is not None:
                self.recalibrate(self.model)
                self.model.eval()
            for images, labels_of_batch in self.data.ordered(self.batch_size):
                with arithmetic(self.data.device, self.precision):
                    logits = self.model(images)
                predictions.append(logits.argmax(dim=-1))
                labels.append(labels_of_batch)
                num_classes = logits.shape[-1]
        self.passes += 1
        return score_of(self.metric, labels, predictions, num_classes)


def score_of(metric: Metric, labels: Sequence[Tensor], predictions: Sequence[Tensor], num_classes: int) -> float:
    """The metric of batches of labels and predicted classes (B,), taken together."""
    all_labels, all_predictions = (torch.cat(list(batches)).cpu().numpy() for batches in (labels, predictions))
    return metric.score(all_labels, all_predictions, num_classes)


def accuracy_scorer(
    model: nn.Module,
    fit: Fit,
    *,
    device: str = "cpu",
    batch_size: int = SCORING_BATCH,
    preprocess: Preprocess | None = None,
    recalibrate: Callable[[nn.Module], None] | None = None,
    precision: Precision | None = None,
) -> AccuracyScorer:
    """A score for `greedy_soup` and others: accuracy on the fit images, which stay on the device.

    Args:
        model: The architecture; keeps its mode, flags and device, not its weights.
        fit: Images (n, ...) and labels (n,): two tensors, or a re-iterable of batches of both.
        device: Where to compute.
        batch_size: Images in a forward pass; streamed batches keep their own size.
        preprocess: Maps a batch of images on the device to the model's input.
        recalibrate: Sets BatchNorm statistics of the loaded model before every pass; None keeps those of the weights.
        precision: Arithmetic of forward passes; None: bfloat16 on CUDA, else the model's own type.

    Raises:
        SoupError: ``fit`` has no images, not one label for each, or can be read only once.
    """
    return AccuracyScorer(model, FitData(fit, device, preprocess), batch_size, recalibrate, precision)


def fit_scorer(inputs: SoupInputs, *, recalibrate: bool = True) -> AccuracyScorer | MetricScorer:
    """What scores for a method; without ``recalibrate`` it keeps the BatchNorm statistics of what it scores."""
    data = FitData(inputs.fit, inputs.device, inputs.preprocess)
    renew = inputs.recalibrate if recalibrate else None
    if inputs.metric is None:
        return AccuracyScorer(inputs.model, data, inputs.score_batch_size, renew, inputs.precision)
    return MetricScorer(inputs.model, data, inputs.score_batch_size, inputs.metric, renew, inputs.precision)


def smallest_count(at_least: float, total: int) -> int:
    """The smallest number of correct images whose accuracy, as a float, reaches ``at_least``."""
    count = max(math.floor(at_least * total) - 1, 0)
    while count <= total and count / total < at_least:
        count += 1
    return count
