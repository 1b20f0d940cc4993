"""METRICS against scikit-learn, and what scores by them decide in the soup library."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from pipeline.evaluation import evaluate, figures
from pipeline.metrics import METRICS, deciding
from pipeline.soups import METHODS, soup_from_coefficients
from pipeline.testing import check_metric, soup_inputs

REFERENCES = {
    "accuracy": reference.accuracy_score,
    "balanced_accuracy": reference.balanced_accuracy_score,
    "f1": lambda labels, predictions: reference.f1_score(labels, predictions, zero_division=0),
    # As the code of WILDS calls it.
    "macro_f1": lambda labels, predictions: reference.f1_score(
        labels, predictions, average="macro", labels=np.unique(labels), zero_division=0
    ),
    "matthews": reference.matthews_corrcoef,
    "accuracy_and_f1": lambda labels, predictions: (
        (reference.accuracy_score(labels, predictions) + reference.f1_score(labels, predictions, zero_division=0)) / 2
    ),
}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_keeps_the_contract(name):
    check_metric(METRICS[name])
    assert METRICS[name].name == name


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_that_of_scikit_learn(name):
    metric, generator = METRICS[name], np.random.default_rng(0)
    for classes, size in itertools.product([2] if metric.num_classes == 2 else [2, 5, 40], [1, 7, 200]):
        for skew in (0.5, 4):  # few classes are rare; most are, and some are not there at all
            weights = generator.random(classes) ** skew
            labels, guesses = (generator.choice(classes, size, p=weights / weights.sum()) for _ in range(2))
            predictions = np.where(generator.random(size) < 0.6, labels, guesses)
            expected = REFERENCES[name](labels, predictions)
            assert metric.score(labels, predictions, classes) == pytest.approx(expected, abs=1e-12)


def test_a_metric_of_two_classes_names_what_to_take_for_more():
    assert METRICS["f1"].unfit(2) is None
    assert METRICS["f1"].unfit(10) == "'f1' is defined for 2 classes, and there are 10; give 'macro_f1'"
    assert all(METRICS[metric.instead].num_classes is None for metric in METRICS.values())


def test_figures_have_scores_beside_accuracies_only_where_another_metric_decides():
    logits, labels = torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2])
    empty = logits[:0], labels[:0]
    by_accuracy = figures({"fit": evaluate(logits, labels, "accuracy"), "select": evaluate(*empty, "accuracy")})
    assert by_accuracy == {"val_accuracy": 0.75, "select_accuracy": None}
    scored = figures({"fit": evaluate(logits, labels, "macro_f1"), "select": evaluate(*empty, "macro_f1")})
    assert scored == {**by_accuracy, "val_score": pytest.approx((1 + 2 / 3 + 2 / 3) / 3)}


# --- What it decides between soups ----------------------------------------------------------------------------------


@pytest.fixture
def imbalanced(tmp_path):
    """Inputs of a method of whose labels at least four in five are the first class."""
    inputs = soup_inputs(tmp_path, 8)
    with torch.no_grad():
        labels = inputs.model.eval()(inputs.fit[0]).argmax(1)
    order = torch.argsort(torch.rand(len(labels), generator=torch.Generator().manual_seed(1)))
    return dataclasses.replace(inputs, fit=(inputs.fit[0], torch.where(order < 32, torch.zeros_like(labels), labels)))


def logits_of(inputs, state):
    model = inputs.model.eval()
    model.load_state_dict(state)
    with torch.no_grad():
        return model(inputs.fit[0])


def score_of(inputs, logits):
    metric, labels = inputs.metric or METRICS["accuracy"], inputs.fit[1]
    return metric.score(labels.numpy(), logits.argmax(1).numpy(), logits.shape[1])


def mean_of(inputs, members):
    coefficients = torch.zeros(len(inputs.ingredients), 1, dtype=torch.float64)
    coefficients[members] = 1 / len(members)
    return soup_from_coefficients(inputs.ingredients, coefficients, ("model",))


def recipe(scores, score_with):
    """Recipe 1 of the model-soups paper, as it stands there."""
    first, *others = sorted(range(len(scores)), key=lambda k: -scores[k])
    members, best = [first], scores[first]
    for k in others:
        if (score := score_with([*members, k])) >= best:
            members, best = [*members, k], score
    return sorted(members), best


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "matthews", "balanced_accuracy"])
@pytest.mark.parametrize("known", [True, False])
def test_greedy_and_the_best_individual_follow_the_metric(imbalanced, name, known):
    inputs = dataclasses.replace(imbalanced, metric=deciding(name))
    scores = [score_of(inputs, logits_of(inputs, inputs.ingredients.state_dict(k))) for k in range(8)]
    inputs = dataclasses.replace(inputs, accuracies=scores if known else None)
    best = METHODS["best-individual"](inputs)
    assert best.selected == (scores.index(max(scores)),)
    assert best.history == (max(scores),)
    members, reached = recipe(scores, lambda them: score_of(inputs, logits_of(inputs, mean_of(inputs, them))))
    greedy = METHODS["greedy"](inputs)
    assert list(greedy.selected) == members
    assert greedy.history[-1] == reached
    in_sum = [logits_of(inputs, inputs.ingredients.state_dict(k)) for k in range(8)]
    members, reached = recipe(scores, lambda them: score_of(inputs, sum(in_sum[k] for k in them)))
    ensemble = METHODS["greedy-ensemble"](inputs)
    assert list(ensemble.selected) == members
    assert ensemble.history[-1] == reached


@pytest.mark.parametrize("name", ["macro_f1", "matthews", "balanced_accuracy"])
@pytest.mark.parametrize("method", ["best-individual", "greedy", "greedy-ensemble"])
def test_the_metric_makes_another_soup_than_accuracy(imbalanced, method, name):
    by_metric = METHODS[method](dataclasses.replace(imbalanced, metric=METRICS[name]))
    assert by_metric.selected != METHODS[method](imbalanced).selected


def test_whole_sets_are_scored_by_another_metric_and_accuracy_ends_early(imbalanced):
    of_accuracy = METHODS["greedy"](imbalanced)
    of_metric = METHODS["greedy"](dataclasses.replace(imbalanced, metric=METRICS["macro_f1"]))
    streamed = [tuple(part[start : start + 8] for part in imbalanced.fit) for start in range(0, 40, 8)]
    in_batches = METHODS["greedy"](dataclasses.replace(imbalanced, fit=streamed, metric=METRICS["macro_f1"]))
    assert of_metric.epochs == in_batches.epochs == 8 + 7
    assert of_accuracy.epochs <= 8 + 7
    assert in_batches.history == of_metric.history
