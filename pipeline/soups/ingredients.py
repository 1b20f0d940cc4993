"""A set of fine-tuned models of one architecture: safetensors files, memory-mapped and read tensor by tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.errors import IngredientError
from pipeline.soups.streaming import weighted_sum

# Integer views of the same width compare bit patterns: torch.equal alone takes -0.0 and 0.0 for the same.
_SAME_WIDTH = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class IngredientFile:
    """One open file: its tensors are views of the memory-mapped bytes, never to be written to.

    ``specs`` maps a tensor's name to (dtype, shape) as the header gives them; ``metadata`` is the header's own;
    ``extremes`` are the least and largest value of each floating-point tensor, found on admission.
    """

    path: Path
    handle: Any
    specs: dict[str, tuple[str, tuple[int, ...]]]
    metadata: dict[str, str]
    extremes: tuple[float, ...] = ()

    def tensor(self, name: str) -> Tensor:
        """The tensor, memory-mapped; read-only by convention."""
        found: Tensor = self.handle.get_tensor(name)
        return found


def open_file(path: Path) -> IngredientFile:
    """Map one safetensors file; raises IngredientError when it cannot be read."""
    try:
        handle: Any = safe_open(str(path), framework="pt")
    except (OSError, SafetensorError) as error:
        raise IngredientError(
            f"{path}: cannot be read as safetensors ({error}); save it again or leave it out"
        ) from None
    specs = {}
    for name in sorted(handle.keys()):
        view = handle.get_slice(name)
        specs[name] = (str(view.get_dtype()), tuple(view.get_shape()))
    return IngredientFile(path, handle, specs, dict(handle.metadata() or {}))


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one dtype and shape hold the same bytes."""
    width = _SAME_WIDTH.get(first.element_size())
    if width is None:
        return torch.equal(first, second)
    return torch.equal(first.view(width), second.view(width))


class IngredientSet:
    """K ingredients that fit each other, in a fixed order.

    Opening reads every tensor once to check it; afterwards tensors are read when asked for, and no ingredient stays in
    memory.
    """

    def __init__(self, files: Sequence[IngredientFile], rejected: Sequence[tuple[Path, str]] = ()) -> None:
        if not files:
            reasons = "; ".join(reason for _, reason in rejected)
            raise IngredientError(f"no ingredient to make a soup of{': ' + reasons if reasons else ''}")
        self._files = tuple(files)
        self.rejected: list[tuple[Path, str]] = list(rejected)

    @classmethod
    def open(
        cls, paths: Iterable[str | PathLike[str]], *, on_mismatch: Literal["raise", "skip"] = "raise"
    ) -> IngredientSet:
        """Map the files and check them against each other.

        The signature (tensors, shapes, dtypes, theta0, class names) that most files share is the one to fit. With
        ``on_mismatch="raise"`` any misfit raises an IngredientError with a line per file; with ``"skip"`` misfits are
        left out and stand in ``rejected`` as (path, reason).
        """
        from pipeline.soups.admission import admit  # the checks build on the types of this module

        files, rejected = admit([Path(path) for path in paths])
        if rejected and on_mismatch == "raise":
            raise IngredientError("\n".join(reason for _, reason in rejected))
        return cls(files, rejected)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(self._files[0].specs)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(file.path for file in self._files)

    def metadata(self, k: int) -> dict[str, str]:
        """The safetensors header metadata of ingredient ``k``."""
        return dict(self._files[k].metadata)

    def subset(self, indices: Iterable[int]) -> IngredientSet:
        """These ingredients in this order (repeats allowed); shares the open files and checks nothing again."""
        return IngredientSet([self._files[k] for k in indices])

    def tensor(self, k: int, name: str) -> Tensor:
        """One tensor of ingredient ``k``, memory-mapped: do not write to it."""
        return self._files[k].tensor(name)

    def state_dict(self, k: int) -> dict[str, Tensor]:
        """All tensors of ingredient ``k``, memory-mapped: do not write to them."""
        return {name: self.tensor(k, name) for name in self.names}

    @property
    def fingerprint(self) -> str:
        """Tells this set from others without reading it again: a hash over headers and extreme values."""
        parts = [repr((file.specs, sorted(file.metadata.items()), file.extremes)) for file in self._files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def read_ahead(self, indices: Iterable[int]) -> None:
        """Ask the system to read these files into its page cache in the background; where it cannot, do nothing."""
        if not hasattr(os, "posix_fadvise"):
            return
        for k in indices:
            with self._files[k].path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    @cached_property
    def floating(self) -> tuple[str, ...]:
        """Names of the floating-point tensors, which can be averaged."""
        return tuple(name for name in self.names if self.tensor(0, name).is_floating_point())

    @cached_property
    def varying(self) -> tuple[str, ...]:
        """Names of the floating-point tensors that are not bit-equal in all ingredients: those that a soup mixes."""
        return tuple(
            name
            for name in self.floating
            if not all(same_bits(self.tensor(0, name), self.tensor(k, name)) for k in range(1, len(self)))
        )

    def mean_tensor(self, name: str) -> Tensor:
        """The mean of one floating-point tensor, as float32 or the stored type if wider."""
        first = self.tensor(0, name)
        out = torch.empty(first.shape, dtype=torch.promote_types(first.dtype, torch.float32))
        return weighted_sum([(1.0 / len(self), self.tensor(k, name)) for k in range(len(self))], out)

    def mean(self) -> dict[str, Tensor]:
        """The centre of all K ingredients (Eq. 1 of the MEHL-Soup paper), one tensor of one ingredient at a time.

        Integer tensors and tensors equal in all ingredients are those of the first.
        """
        varying = set(self.varying)
        return {name: self.mean_tensor(name) if name in varying else self.tensor(0, name) for name in self.names}
