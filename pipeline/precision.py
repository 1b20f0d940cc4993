"""The arithmetic of forward and backward passes, the same for fine-tuning and for learning coefficients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

Precision = Literal["float32", "bfloat16"]


@contextmanager
def arithmetic(device: torch.device, precision: Precision | None) -> Iterator[None]:
    """Compute in bfloat16 (autocast) or in the type of the weights, which keep theirs; None: bfloat16 on CUDA alone."""
    lower = precision == "bfloat16" or (precision is None and device.type == "cuda")
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=lower))
        if lower and device.type == "cpu":
            # The backward pass of its fused attention takes three times as long in bfloat16 as in float32.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
