"""The arithmetic of all that trains, learns, scores and evaluates models, and how the same seed repeats a result."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

P = ParamSpec("P")
T = TypeVar("T")

Precision = Literal["float32", "bfloat16"]

logger = logging.getLogger(__name__)

_DEBUGGING: Any = torch.utils.deterministic  # has a property, which modules cannot
_UNKNOWN = "does not have a deterministic implementation"  # what torch says of an operation
# What CUDA and its libraries say that find no room beside torch's allocator: for their contexts, handles, workspaces.
_NO_ROOM = ("CUDA error: out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")


def resolved(precision: Precision | None, device: torch.device | str) -> Precision:
    """The arithmetic itself where the settings leave it open: bfloat16 on CUDA, float32 elsewhere."""
    return precision or ("bfloat16" if torch.device(device).type == "cuda" else "float32")


@contextmanager
def arithmetic(device: torch.device | str, precision: Precision | None) -> Iterator[None]:
    """Forward passes in bfloat16 (autocast), or in the type of the weights, which keep theirs; None: see `resolved`.

    Load weights before, not within: autocast keeps the bfloat16 copies that it made of them until the end.
    """
    kind, lower = torch.device(device).type, resolved(precision, device) == "bfloat16"
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(kind, torch.bfloat16, enabled=lower))
        if lower and kind == "cpu":
            # The backward pass of its fused attention takes three times as long in bfloat16 as in float32.
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def wide(logits: Tensor) -> Tensor:
    """Logits of less than 32 bits as float32, in which they are added and compared; others as they are."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had no room, for a tensor or for what CUDA itself needs."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_ROOM)


def reproducible(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` with everything in torch set so that the same seed gives the same result, as far as torch can.

    On the same machine, with the same libraries and number of threads: torch takes deterministic algorithms, and
    float32 is float32, not TF32. Where an operation has none on this device (the gradient of bicubic resizing on CUDA,
    say), a line in the log names it and ``function`` is called again with as much of this as there is, so it must be
    one that can be. The settings are those of the process; they are as before when it returns.
    """

    @functools.wraps(function)
    def repeatable(*args: P.args, **kwargs: P.kwargs) -> T:
        # cuBLAS reads it when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        try:
            with _deterministic(warn_only=False):
                return function(*args, **kwargs)
        except RuntimeError as error:
            if _UNKNOWN not in str(error):
                raise
            operation = str(error).partition(_UNKNOWN)[0].strip()
            logger.info("%s is not deterministic on this device: the same seed will not repeat the result", operation)
        with _deterministic(warn_only=True):
            return function(*args, **kwargs)

    return repeatable


@contextmanager
def _deterministic(*, warn_only: bool) -> Iterator[None]:
    # Not `warn_only` if it can be helped: the backward passes of fused attention then stay as they are.
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills, matmul = _DEBUGGING.fill_uninitialized_memory, torch.get_float32_matmul_precision()
    with (
        warnings.catch_warnings(),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        warnings.filterwarnings("ignore", message=".*deterministic")
        try:
            torch.use_deterministic_algorithms(True, warn_only=warn_only)
            _DEBUGGING.fill_uninitialized_memory = False  # a check for mistakes, at the cost of a pass
            torch.set_float32_matmul_precision("highest")
            yield
        finally:
            torch.set_float32_matmul_precision(matmul)
            _DEBUGGING.fill_uninitialized_memory = fills
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
