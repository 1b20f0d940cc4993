import pytest

from pipeline.records import PredictionRecord
from pipeline.studies.base import predicted_images
from pipeline.studies.comparisons import compare_methods


def predictions(right, wrong_on_fit=0):
    """Of a method that gets the test images ``right`` (by index, of 200) right."""
    rows = [PredictionRecord(split="fit", image_index=i, label=0, prediction=1) for i in range(wrong_on_fit)]
    return [
        *rows,
        *(
            PredictionRecord(split="test", image_index=i, label=3, prediction=3 if i in right else 4)
            for i in range(200)
        ),
    ]


def test_every_pair_on_the_test_images_alone():
    first, second, third = set(range(150)), set(range(10, 140)), set(range(150))
    rows = {"a": predictions(first), "b": predictions(second, wrong_on_fit=50), "c": reversed_rows(predictions(third))}
    found = compare_methods({method: predicted_images(part) for method, part in rows.items()})
    assert [(row.method, row.baseline) for row in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert (found[0].wins, found[0].losses, found[0].difference) == (20, 0, pytest.approx(0.1))
    assert found[0].low > 0
    assert found[0].p_value == pytest.approx(2 * 0.5**20)
    assert (found[1].wins, found[1].losses, found[1].p_value, found[1].p_adjusted) == (0, 0, 1, 1)
    assert (found[2].wins, found[2].losses) == (0, 20)
    # Benjamini and Yekutieli: the smallest of three times 3 / 1, times 1 + 1/2 + 1/3; equal ones share the rank 2.
    assert found[0].p_adjusted == pytest.approx(found[0].p_value * 3 / 2 * (1 + 1 / 2 + 1 / 3))


def reversed_rows(rows):
    return list(reversed(rows))


def test_one_method_is_compared_with_nothing():
    assert compare_methods({"a": predicted_images(predictions({1}))}) == []
