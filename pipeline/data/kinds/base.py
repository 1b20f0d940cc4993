"""What a kind of input brings: how a raw value becomes what a model takes, and what it is called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline.config import DataConfig
from pipeline.data.sources.base import RawExamples
from pipeline.records import Hyperparameters, ShownExample

# From the value of a `RawExample` to an array, and how much of the value (how many tokens) that has no room for.
Encoder: TypeAlias = Callable[[Any], tuple[npt.NDArray[Any], int]]


class Form(NamedTuple):
    """What a model takes of one example: an array of this shape and type, in the store the column of this name."""

    column: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Of one example."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class Listed(NamedTuple):
    """A set that is not read yet: `Source.identity` and `Source.open` of it alone."""

    identity: Callable[[], str]
    open: Callable[[], RawExamples]


class ReaderModule(Protocol):
    """The file of a kind that is shipped with a served soup: it imports nothing of this package, at its top or inside.

    ``inputs`` are the plain values that `Kind.inputs` and `Backbone.constants` say, as the description of a model has
    them.
    """

    __file__: str | None
    REQUIREMENTS: tuple[str, ...]
    """The distributions that it needs beside torch and numpy, by the names that pip knows."""
    NAMES: tuple[str, str]
    """What one example is called, and several: ``("image", "images")``."""

    def columns(self, inputs: Mapping[str, Any]) -> dict[str, str]:
        """What a served soup is asked with: the names of the columns, each with its type in MLflow."""

    def prepare(self, inputs: Mapping[str, Any]) -> nn.Module:
        """From a batch of encoded examples to what a tower takes; its constants are in no state dict."""

    def example(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """A value for each of the ``columns``."""

    def Reader(self, inputs: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], npt.NDArray[Any]]:
        """What encodes the values of the ``columns`` in a served soup, in several threads at once.

        It raises ValueError for values that it does not take, and TimeoutError where it has no room for them now.
        """


@dataclass(frozen=True)
class Kind:
    """A kind of input. Nothing but its line in the table and its files knows what an example of it is.

    ``singular``, ``plural`` and ``contents`` are words: an image, images, and the pixels that two of them share.
    ``needs`` are the settings in `DataConfig` that it must have, whatever the source. ``form`` is what a model takes.
    ``encoder`` gives the `Encoder` of that form, which is pickled and runs on the CPUs of the cluster; ``cut_by`` is a
    setting that its room follows from, empty where there always is room. What it raises, of any kind, is told of the
    example, followed by what values are ``accepted``. ``key`` are plain values that the arrays depend on beside the
    raw values, and ``version`` is raised when values that a source has encoded (see `Source.encoded`) come out as
    other arrays: both are part of what identifies a store.

    ``draw`` makes, on the host, all that is random about a batch of a shape (B, ...): CPU tensors in tuples. ``batch``
    gets encoded examples (B, ...) and targets (B, classes) for a step of training, and what was drawn, on the device,
    and returns the first two augmented and mixed, or as they are. ``inputs`` are plain values by which a served soup
    reads and prepares examples with ``reader``. ``probes`` are examples that a model has to take, each with what is
    wrong where it does not (``{reason}`` stands for what it raised).
    ``meaningless`` are the hyperparameters that ``batch`` has no use for, ``space`` is the search space that suits it,
    where that is not the default. ``lengths`` says of encoded examples (N, T, ...) after how many of T each has nothing
    but padding, where that differs (see `ExampleSet`).
    ``exported`` are encoded examples (B, ...) as a program of torch.export takes them.
    ``show`` makes of encoded examples (B, ...) what people can look at on a page, each a few KiB; None: nothing.
    ``shift`` lists a test set that is no source's: its name among ``data.shifts``, and the folder names of the classes.
    """

    singular: str
    plural: str
    contents: str
    needs: tuple[str, ...]
    form: Callable[[DataConfig], Form]
    encoder: Callable[[DataConfig], Encoder]
    accepted: Callable[[DataConfig], str]
    key: Callable[[DataConfig], Any]
    version: int
    draw: Callable[[torch.Size, Hyperparameters, torch.Generator], Any]
    batch: Callable[[Tensor, Tensor, Hyperparameters, Any], tuple[Tensor, Tensor]]
    inputs: Callable[[DataConfig], dict[str, Any]]
    reader: ReaderModule
    probes: Callable[[DataConfig], Sequence[tuple[npt.NDArray[Any], str]]]
    shift: Callable[[DataConfig, str, Sequence[str] | None], Listed]
    cut_by: str = ""
    meaningless: Collection[str] = ()
    space: str | None = None
    lengths: Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]] | None = None
    exported: Callable[[Tensor], Tensor] = lambda examples: examples
    show: Callable[[DataConfig, npt.NDArray[Any]], list[ShownExample]] | None = None
