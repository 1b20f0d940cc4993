"""Greedy ensemble: members add their logits instead of their weights (Table 3 of the model-soups paper)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.metrics import Metric
from pipeline.precision import Precision, arithmetic, wide
from pipeline.soups.best_individual import individual_accuracies
from pipeline.soups.fit_data import SCORING_BATCH, Fit, FitData, Preprocess
from pipeline.soups.greedy import GreedySettings, by_accuracy, random_order
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.measure import measured
from pipeline.soups.scoring import AccuracyScorer, MetricScorer, score_of, smallest_count
from pipeline.soups.soup import Soup, costed, nonzero_rows
from pipeline.soups.workbench import borrowed, copy_into_model

log = logging.getLogger("pipeline.soups")


def greedy_ensemble(
    model: nn.Module,
    ingredients: IngredientSet,
    fit: Fit,
    settings: GreedySettings | None = None,
    *,
    accuracies: Sequence[float] | None = None,
    device: str = "cpu",
    seed: int = 0,
    preprocess: Preprocess | None = None,
    score_batch_size: int = SCORING_BATCH,
    precision: Precision | None = None,
    metric: Metric | None = None,
) -> Soup:
    """Choose members whose mean logits classify the fit images best, in the order and by the rule of the greedy soup.

    Memory holds one model and the sum of logits of all images, never K models' logits. Takes at most K passes where
    ``accuracies`` are known, else up to 2K. Table 3 of the model-soups paper.

    Args:
        model: The architecture; keeps its mode, flags and device, not its weights.
        ingredients: K fine-tuned models.
        fit: Images (n, ...) and labels (n,): two tensors, or a re-iterable of batches of both in a fixed order.
        settings: None for the defaults.
        accuracies: Those of the K ingredients on ``fit``, if known.
        device: Where to compute.
        seed: Of a random order.
        preprocess: Maps a batch of images on the device to the model's input.
        score_batch_size: Images in a forward pass; streamed batches keep their own size.
        precision: Arithmetic of forward passes; None: bfloat16 on CUDA, else the model's own type.
        metric: By which they classify best; None: accuracy.

    Returns:
        A soup without weights, whose ``coefficients`` (K, 1) are each member's share of the mean and whose ``history``
        holds the accuracy after each one that joined.

    Raises:
        SoupError: Model, ingredients, accuracies and fit images do not fit each other.
    """
    settings = settings or GreedySettings()
    data = FitData(fit, device, preprocess)
    with measured(device) as cost, borrowed(model, device):
        scorer: AccuracyScorer | MetricScorer = AccuracyScorer(model, data, score_batch_size, precision=precision)
        if metric is not None:
            scorer = MetricScorer(model, data, score_batch_size, metric, precision=precision)
        if settings.order == "random":
            order = random_order(len(ingredients), seed)
        else:
            order = by_accuracy(individual_accuracies(ingredients, scorer, accuracies))
        members = _Members(model, ingredients, data, score_batch_size, precision, metric)
        counts = [0] * len(ingredients)
        best, history = -math.inf, []
        for _ in range(settings.sweeps):
            joined = 0
            for k in order:
                at_least = best if settings.ties == "accept" else math.nextafter(best, math.inf)
                score = members.try_with(k, at_least)
                if score is None:
                    continue
                members.accept()
                counts[k] += 1
                joined += 1
                best = score
                history.append(score)
                log.info("greedy ensemble: ingredient %d joins as number %d, score %.4f", k, sum(counts), score)
            if joined == 0:
                break
    coefficients = torch.tensor(counts, dtype=torch.float64)[:, None] / sum(counts)
    soup = Soup(
        "greedy-ensemble",
        None,
        coefficients,
        ("model",),
        nonzero_rows(coefficients),
        history=tuple(history),
        epochs=scorer.passes + members.passes,
        epochs_of_trials=0 if accuracies is None or settings.order == "random" else len(ingredients),
    )
    return costed(soup, cost)


class _Members:
    """The logits of the ensemble so far, summed, one tensor per batch of images."""

    def __init__(
        self,
        model: nn.Module,
        ingredients: IngredientSet,
        data: FitData,
        batch_size: int,
        precision: Precision | None,
        metric: Metric | None,
    ) -> None:
        self.model, self.ingredients, self.data = model, ingredients, data
        self.batch_size, self.precision, self.metric = batch_size, precision, metric
        self.sums: list[Tensor] = []
        self.candidate: list[Tensor] = []
        self.passes = 0.0

    @torch.no_grad()
    def try_with(self, k: int, at_least: float) -> float | None:
        """Accuracy, or the score by another metric, if ``k`` joined; None where ``at_least`` is out of reach."""
        copy_into_model(self.model, self.ingredients.state_dict(k))
        total, seen, correct = self.data.num_images, 0, 0
        needed = 0 if self.metric is not None or at_least <= 0 else smallest_count(at_least, total)
        self.candidate, all_labels = [], []
        for number, (images, labels) in enumerate(self.data.ordered(self.batch_size)):
            with arithmetic(self.data.device, self.precision):
                logits = wide(self.model(images))
            summed = logits + self.sums[number] if self.sums else logits
            self.candidate.append(summed)
            all_labels.append(labels)
            correct += int((summed.argmax(dim=-1) == labels).sum())
            seen += len(labels)
            if correct + total - seen < needed:
                break
        self.passes += seen / total
        if self.metric is None:
            return None if correct + total - seen < needed else correct / total
        predictions = [summed.argmax(dim=-1) for summed in self.candidate]
        score = score_of(self.metric, all_labels, predictions, self.candidate[0].shape[-1])
        return score if score >= at_least else None

    def accept(self) -> None:
        """The model tried last joins."""
        self.sums = self.candidate
