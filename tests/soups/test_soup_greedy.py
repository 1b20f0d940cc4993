"""Greedy soup: order, ties, number of passes, exact early end."""

import math

import pytest
import torch
from soup_models import fit_images

from pipeline.errors import SoupError
from pipeline.soups import accuracy_scorer, best_individual, copy_into_model, greedy_soup


class Counting:
    """A score that reads its accuracies from a table by how many ingredients are in the candidate."""

    def __init__(self, answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, state_dict, at_least=None):
        self.asked.append(at_least)
        return self.answers.pop(0)


def test_known_accuracies_need_at_most_k_minus_1_passes(ingredients):
    score = Counting([0.8, 0.5, 0.8, 0.9])  # asked for 4, 3, 1, 0
    soup = greedy_soup(ingredients, score, accuracies=[0.1, 0.2, 0.7, 0.3, 0.4])
    assert len(score.asked) == 4
    assert soup.selected == (0, 1, 2, 4)
    assert soup.history == (0.7, 0.8, 0.8, 0.9)
    assert soup.coefficients.flatten().tolist() == [0.25, 0.25, 0.25, 0.0, 0.25]


def test_a_tie_joins_or_not(ingredients):
    accuracies = [0.7, 0.6, 0.5, 0.4, 0.3]
    assert greedy_soup(ingredients, Counting([0.7] * 4), accuracies=accuracies).selected == (0, 1, 2, 3, 4)
    rejecting = Counting([0.7] * 4)
    assert greedy_soup(ingredients, rejecting, accuracies=accuracies, ties="reject").selected == (0,)
    assert rejecting.asked[0] == math.nextafter(0.7, 1)


def test_none_means_out_of_reach(ingredients):
    assert greedy_soup(ingredients, Counting([None] * 4), accuracies=[1, 0, 0, 0, 0]).selected == (0,)


def test_given_order_and_sweeps_with_replacement(ingredients):
    score = Counting([0.5, 0.6, None, 0.7, None, None])
    soup = greedy_soup(ingredients, score, order=[3, 1, 4], sweeps=2)
    assert soup.history == (0.5, 0.6, 0.7)
    assert soup.coefficients.flatten().tolist() == [0, 1 / 3, 0, 2 / 3, 0]


@pytest.mark.parametrize("order", [[], [0, 0], [5], [-1]])
def test_a_wrong_order_is_refused(ingredients, order):
    with pytest.raises(SoupError, match="order"):
        greedy_soup(ingredients, Counting([]), order=order)


def test_an_accuracy_for_each_ingredient_or_none(ingredients):
    for build in (greedy_soup, best_individual):
        with pytest.raises(SoupError, match="4 accuracies for 5 ingredients"):
            build(ingredients, Counting([]), accuracies=[0.1] * 4)
    with pytest.raises(SoupError, match="not known"):
        best_individual(ingredients)


def test_candidates_are_the_means_that_are_returned(model, ingredients, fit):
    scorer, seen = accuracy_scorer(model, fit), []

    def score(state_dict, at_least=None):
        accuracy = scorer(state_dict, at_least)
        seen.append((accuracy, state_dict))
        return accuracy

    soup = greedy_soup(ingredients, score)
    accepted = [state for accuracy, state in seen if accuracy == soup.history[-1]][-1]
    for name, tensor in soup.state_dict.items():
        torch.testing.assert_close(tensor, accepted[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_early_end_is_exact(model, ingredients, fit, batch_size):
    score = accuracy_scorer(model, fit, batch_size=batch_size)
    for k in range(len(ingredients)):
        state = ingredients.state_dict(k)
        accuracy = score(state)
        copy_into_model(model, state)
        model.eval()
        assert accuracy == float((model(fit[0]).argmax(1) == fit[1]).double().mean())
        assert score(state, at_least=accuracy) == accuracy
        assert score(state, at_least=math.nextafter(accuracy, 2)) is None
        before = score.passes
        assert score(state, at_least=1.1) is None
        assert score.passes == before, "an accuracy above 1 is out of reach before the first image"


def test_images_that_were_wrong_come_first_and_end_a_worse_candidate_early(model, ingredients):
    """One image in four is hard: wrong for all; a candidate that is wrong there alone is seen through at once."""
    images, _ = fit_images(64)
    copy_into_model(model, ingredients.state_dict(0))
    labels = model.eval()(images).argmax(1).detach()
    labels[-16:] = (labels[-16:] + 1) % 4  # the hard ones, at the very end
    score = accuracy_scorer(model, (images, labels), batch_size=4)
    assert score(ingredients.state_dict(0)) == 0.75
    before = score.passes
    assert score(ingredients.state_dict(0), at_least=0.76) is None
    assert score.passes - before == 16 / 64
    assert score(ingredients.state_dict(0), at_least=0.75) == 0.75
