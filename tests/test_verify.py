"""What `verify` takes for the same weights."""

import math

import pytest
import torch

from pipeline.commands.verify import _differ


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_last_bit_is_rounding_and_what_is_more_is_another_weight(dtype):
    recorded = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    recorded[0], recorded[1] = -math.inf, 1e-17  # a mask, and what is left of a sum that cancels
    recorded[2] = 1.0
    last_bit = torch.finfo(dtype).eps
    for entry, value, differs in [(2, 1 + last_bit, False), (1, 0, False), (2, 1 + 3 * last_bit, True), (0, 0, True)]:
        made = recorded.clone()
        made[entry] = value
        assert _differ(made, recorded) is differs
    assert _differ(recorded[:-1], recorded)


def test_numbers_that_count_are_the_same_or_not():
    assert _differ(torch.tensor(3), torch.tensor(4))
    assert not _differ(torch.tensor(3), torch.tensor(3))
