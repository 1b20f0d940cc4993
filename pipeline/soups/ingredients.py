"""A set of fine-tuned models of one architecture: safetensors files, memory-mapped and read tensor by tensor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pipeline.errors import IngredientError
from pipeline.soups.admission import Rejection, admit
from pipeline.soups.ingredient_file import IngredientFile, same_bits
from pipeline.soups.streaming import weighted_sum


class IngredientSet:
    """K ingredients that fit each other, in a fixed order.

    Opening reads every tensor once to check it; afterwards tensors are read when asked for, and no ingredient stays in
    memory.
    """

    def __init__(self, files: Sequence[IngredientFile], rejected: Sequence[Rejection] = ()) -> None:
        if not files:
            reasons = "; ".join(reason for _, reason in rejected)
            raise IngredientError(f"no ingredient to make a soup of{': ' + reasons if reasons else ''}")
        self._files = tuple(files)
        self.rejected: list[Rejection] = list(rejected)

    @classmethod
    def open(
        cls,
        paths: Iterable[str | PathLike[str]],
        *,
        on_mismatch: Literal["raise", "skip"] = "raise",
        titles: Iterable[str] | None = None,
    ) -> IngredientSet:
        """Map the files and check them against each other.

        The signature (tensors, shapes, dtypes, theta0, class names) that most files share is the one to fit.

        Args:
            paths: K safetensors files; their order is that of the ingredients.
            on_mismatch: What to do about files that do not fit: ``raise``, or ``skip`` them, after which they stand in
                ``rejected`` as (path, reason).
            titles: What messages call the K files; None: their paths.

        Raises:
            IngredientError: No file is left, or any does not fit and ``on_mismatch`` is ``raise``; a line per file.
        """
        files = [Path(path) for path in paths]
        admitted, rejected = admit(files, list(map(str, files)) if titles is None else list(titles))
        if rejected and on_mismatch == "raise":
            raise IngredientError("\n".join(reason for _, reason in rejected))
        return cls(admitted, rejected)

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
        """The ingredients at these ``indices``, in this order (repeats allowed).

        Shares the open files and checks nothing again.
        """
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
        """Names of the floating-point tensors, which can be averaged: all but those with infinite values (a mask)."""
        infinite = self._files[0].infinite
        return tuple(name for name in self.names if name not in infinite and self.tensor(0, name).is_floating_point())

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
