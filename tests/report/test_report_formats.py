import pytest

from pipeline.digits import apart, significant
from pipeline.report.formats import between, cost, cost_scale, count, duration, gains, memory, percent, percents
from pipeline.report.intervals import interval


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0021345, "0.00213"), (1234.5, "1234"), (12.34, "12.3"), (9.999, "10"), (0.1, "0.1"), (100, "100")],
)
def test_significant_digits_without_exponent(value, text):
    assert significant(value) == text


def test_numbers_that_are_compared_have_enough_digits_to_differ():
    assert apart([0.01, 0.010135]) == ["0.01", "0.0101"]
    assert apart([0.01, 0.010004, 2.5]) == ["0.01", "0.010004", "2.5"]
    assert apart([1234.1, 1234.3]) == ["1234.1", "1234.3"]
    assert apart([0.3, 0.1 + 0.2, 0.0, -0.0]) == ["0.3", "0.3", "0", "0"]  # differ by rounding, if at all
    assert percents(0.71, 0.710004, 0.5) == ["71.0000", "71.0004", "50.0000"]
    assert percents(0.71, 0.71) == ["71.00", "71.00"]
    assert gains(0.0161, -0.002, -0.0) == ["+1.61", "-0.20", "+0.00"]
    assert gains(-0.00004, 0.01) == ["-0.004", "+1.000"]
    assert gains(1e-17) == ["+0.00"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.42 s"), (12.34, "12.3 s"), (59.97, "1 min"), (200, "3 min 20 s"), (3599.7, "1 h"), (7500, "2 h 5 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(None, "-"), (12, "12 B"), (120 * 2**20, "120 MiB"), (1023 * 2**20, "0.999 GiB"), (int(1.32 * 2**30), "1.32 GiB")],
)
def test_memory(size, text):
    assert memory(size) == text


def test_small_costs_are_said_in_words_too():
    assert cost(24.06, "GPU hours") == "24.1 GPU hours"
    assert cost(0.0213, "CPU core hours") == "0.0213 CPU core hours (1 min 17 s of one core)"
    assert cost(0.5, "GPU hours") == "0.5 GPU hours (30 min of one GPU)"
    assert cost(0, "GPU hours") == "0 GPU hours"


@pytest.mark.parametrize(
    ("hours", "unit", "text"),
    [(4, "GPU hours", "4"), (0.1, "GPU minutes", "6"), (0.001, "GPU seconds", "3.6")],
)
def test_the_unit_of_a_column_follows_its_largest_cost(hours, unit, text):
    scale = cost_scale(hours, "GPU hours")
    assert scale.unit == unit
    assert scale.text(hours) == text


def test_small_helpers():
    assert (percent(0.94567), percent(None)) == ("94.57", "-")
    assert (count(1, "trial"), count(1600, "image")) == ("1 trial", "1,600 images")


@pytest.mark.parametrize("images", [1, 2, 50, 497])
def test_a_higher_accuracy_has_a_higher_interval(images):
    intervals = [interval(right / images, images) for right in range(images + 1)]
    for low_or_high in zip(*intervals, strict=True):
        assert list(low_or_high) == sorted(set(low_or_high))
    for right, (low, high) in enumerate(intervals):
        assert 0 <= low <= right / images <= high <= 1
        assert low < high


def test_the_interval_is_wilsons():
    # Wilson (1927): the accuracies p with |p - 0.93| <= z sqrt(p (1 - p) / n).
    for end in interval(0.93, 1000):
        assert abs(end - 0.93) == pytest.approx(1.959964 * (end * (1 - end) / 1000) ** 0.5)
    assert (between(0.9, 50), between(0.9, None)) == ("78.64 to 95.65", "-")
    with pytest.raises(ValueError, match="at least one image"):
        interval(0.9, 0)
