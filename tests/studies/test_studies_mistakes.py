"""What the champion and the best trial get wrong, from what they predicted."""

import numpy as np
from report.report_records import a_run, a_soup

from pipeline.records import PredictionRecord, ShownExample
from pipeline.records.folder import predictions_path
from pipeline.studies import STUDIES, StudyInputs
from pipeline.studies.mistakes import MISTAKES, MistakesSettings, confusions
from pipeline.studies.statistics import Predicted

LABELS = [index % 3 for index in range(60)]


def recorded(predictions):
    """As a method's table has them, with a split besides that does not count."""
    rows = [("fit", i, 0, 1) for i in range(5)] + [("test", i, *both) for i, both in enumerate(predictions)]
    return [PredictionRecord(split=s, image_index=i, label=label, prediction=p) for s, i, label, p in rows]


def wrong_at(*indices):
    return recorded([(label, (label + 1) % 3 if i in indices else label) for i, label in enumerate(LABELS)])


def inputs(champion, methods, **changes):
    tables = {predictions_path(method): rows for method, rows in methods.items()}
    values = {
        "settings": MistakesSettings(),
        "run": a_run(champion=champion, class_names=["ant", "bee", "cat"]),
        "ingredients": [],
        "soups": [a_soup(method) for method in methods],
        "request": None,
        "read_coefficients": None,
        "read_predictions": tables.__getitem__,
        "show": lambda indices: [ShownExample("text/plain", f"example {index}") for index in indices],
    }
    return StudyInputs(**(values | changes))


def test_every_pair_of_classes_that_occurs_is_counted():
    model = Predicted(np.array([0, 0, 0, 2, 2]), np.array([0, 0, 2, 1, 2]))
    found = [(row.label, row.prediction, row.images) for row in confusions("a", model, 3)]
    assert found == [(0, 0, 2), (0, 2, 1), (2, 1, 1), (2, 2, 1)]


def test_examples_are_those_that_one_alone_got_right_evenly_spread():
    champion, best = wrong_at(4, 50), wrong_at(*range(0, 48, 2))  # both have 4 wrong
    tables = MISTAKES.rows(inputs("greedy", {"best-individual": best, "greedy": champion}), {})
    examples = tables["examples"]
    won = [row for row in examples if row.prediction == row.label]
    lost = [row for row in examples if row.prediction != row.label]
    assert {(row.method, row.baseline) for row in examples} == {("greedy", "best-individual")}
    assert [row.image_index for row in lost] == [50]
    assert (lost[0].prediction, lost[0].baseline_prediction) == ((LABELS[50] + 1) % 3, LABELS[50])
    indices = [row.image_index for row in won]
    assert len(indices) == 8
    assert (indices[0], indices[-1]) == (0, 46)  # not the first eight
    assert max(np.diff(indices)) <= 10
    assert 4 not in indices
    assert all(row.baseline_prediction != row.label for row in won)
    assert all(row.content == f"example {row.image_index}" for row in examples)
    assert {row.method for row in tables["confusions"]} == {"greedy", "best-individual"}
    assert sum(row.images for row in tables["confusions"]) == 2 * len(LABELS)


def test_a_champion_that_is_the_best_trial_differs_from_nothing():
    tables = MISTAKES.rows(inputs("best-individual", {"best-individual": wrong_at(1)}), {})
    assert (len(tables["confusions"]), tables["examples"]) == (4, [])


def test_without_a_best_trial_there_are_the_mistakes_of_the_champion():
    tables = MISTAKES.rows(inputs("greedy", {"uniform": wrong_at(1, 2), "greedy": wrong_at(1)}), {})
    assert {row.method for row in tables["confusions"]} == {"greedy"}
    assert tables["examples"] == []


def test_a_kind_of_input_that_shows_nothing_has_no_examples():
    methods = {"best-individual": wrong_at(1, 2), "greedy": wrong_at(3)}
    assert MISTAKES.rows(inputs("greedy", methods, show=lambda indices: ()), {})["examples"] == []


def test_it_is_a_study_like_the_others():
    assert STUDIES["mistakes"] is MISTAKES


def test_no_example_is_shown_where_none_is_asked_for():
    methods = {"best-individual": wrong_at(1, 2), "greedy": wrong_at(3)}
    none = inputs("greedy", methods, settings=MistakesSettings(examples=0), show=None)  # nothing is even looked up
    tables = MISTAKES.rows(none, {})
    assert tables["examples"] == []
    assert len(tables["confusions"]) > 0
