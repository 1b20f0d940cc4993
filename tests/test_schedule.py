import math
import subprocess
import sys

import pytest

from pipeline.schedule import learning_rate


def test_learning_rate_warms_up_linearly_and_decays_as_a_cosine_to_zero():
    rates = [learning_rate(2.0, step, 100, warmup=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([2.0 * (step + 1) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * step / 90) for step in range(90)])
    assert max(rates) == 2.0
    assert learning_rate(2.0, 100, 100, warmup=0.1) == pytest.approx(0)


def test_without_warm_up_the_peak_comes_first():
    assert learning_rate(2.0, 0, 10, warmup=0) == 2.0
    assert learning_rate(2.0, 0, 1, warmup=0.05) == 2.0


def test_constant_stays_at_the_peak_after_the_warm_up():
    rates = [learning_rate(0.2, step, 4, warmup=0.5, schedule="constant") for step in range(4)]
    assert rates == [0.1, 0.2, 0.2, 0.2]


def test_linear_falls_to_zero_in_a_straight_line():
    rates = [learning_rate(0.2, step, 6, warmup=0.4, schedule="linear") for step in range(7)]
    assert rates == pytest.approx([0.1, 0.2, 0.2, 0.15, 0.1, 0.05, 0])


def test_a_warm_up_of_part_of_a_step_is_left_out():
    assert learning_rate(1.0, 0, 10, warmup=0.19) == 1.0
    assert learning_rate(1.0, 0, 10, warmup=0.29) == 0.5


def test_needs_the_standard_library_alone():
    code = "import sys, pipeline.schedule; print([name for name in ('torch', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
