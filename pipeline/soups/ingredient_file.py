"""One safetensors file, memory-mapped: ingredients and the saved progress of a soup are read through it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.errors import IngredientError, ModelError
from pipeline.weights import damage, file_kind, name_problem

# Integer views of the same width compare bit patterns: torch.equal alone takes -0.0 and 0.0 for the same.
_SAME_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class IngredientFile:
    """One open file: its tensors are views of the memory-mapped bytes, never to be written to.

    Attributes:
        path: Where it lies.
        title: What messages call it.
        handle: Of safetensors; keeps the file mapped.
        specs: (dtype, shape) of each tensor by its name, as the header gives them, such as ("F32", (512, 768)).
        metadata: The header's own, text by text.
        extremes: Least and largest value of each floating-point tensor in turn, once it has been read through.
        infinite: Names of the tensors with infinite values.
    """

    path: Path
    title: str
    handle: Any
    specs: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]
    extremes: tuple[float, ...] = ()
    infinite: frozenset[str] = frozenset()

    def tensor(self, name: str) -> Tensor:
        """The tensor, memory-mapped; read-only by convention."""
        tensor: Tensor = self.handle.get_tensor(name)
        return tensor


def open_file(path: Path, title: str | None = None) -> IngredientFile:
    """Map one safetensors file, called ``title`` in messages (default: its path).

    Raises IngredientError when it cannot be read, with what it is and what to do.
    """
    title = title or str(path)
    try:
        if file_kind(path) != "safetensors":
            raise IngredientError(f"{title}: is a file of torch.save; write its state dict as safetensors")
        handle: Any = safe_open(str(path), framework="pt")
    except ModelError as error:  # begins with the path
        raise IngredientError(f"{title}{str(error).removeprefix(str(path))}") from None
    except (OSError, SafetensorError) as error:
        raise IngredientError(f"{title}: {damage(path, error)}") from None
    specs = {}
    for name in sorted(handle.keys()):
        if (problem := name_problem(name)) is not None:
            raise IngredientError(f"{title}: {problem}")
        view = handle.get_slice(name)
        specs[name] = (str(view.get_dtype()), tuple(view.get_shape()))
    return IngredientFile(path, title, handle, specs, dict(handle.metadata() or {}))


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one dtype and shape hold the same bytes."""
    width = _SAME_WIDTH.get(first.element_size())
    if width is None:
        return torch.equal(first, second)
    return torch.equal(first.view(width), second.view(width))
