"""The validation images that a soup learns from: two tensors kept on the device, or batches that are fed to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from pipeline.errors import SoupError
from pipeline.soups.feeding import Feed, Rows

Batch: TypeAlias = tuple[Tensor, Tensor]
Fit: TypeAlias = tuple[Tensor, Tensor] | Iterable[Batch]
Preprocess: TypeAlias = Callable[[Tensor], Tensor]

# Images in a forward pass that scores weights; with more, CPUs take fresh pages from the system for every activation.
SCORING_BATCH = 128
# Images move to a CUDA device once if they take at most this part of its free memory.
_RESIDENT_FRACTION = 0.25


@dataclass(frozen=True)
class FitData:
    """Images (n, ...) and labels (n,), or a re-iterable of batches of both.

    Batches come out on ``device``, preprocessed; each is valid until the next one is asked for. Nothing here knows what
    an image is: rows of token ids are cut into batches alike. Streamed batches keep the size that they come in;
    ``batch_size`` below is that of tensors. With ``on_host`` tensors are on a CUDA device by the batch too, through a
    `Feed`: a batch that is worked on and one that is on its way.
    """

    source: Fit
    device: str
    preprocess: Preprocess | None = None
    on_host: bool = False

    def __post_init__(self) -> None:
        if self.tensors is not None:
            images, labels = self.tensors
            if len(images) != len(labels) or len(images) == 0:
                raise SoupError(
                    f"{len(images)} fit images and {len(labels)} labels; give one label per image, at least one"
                )
        elif iter(self.source) is self.source:
            raise SoupError(
                "fit is an iterator that can be read only once; give two tensors or a re-iterable of batches"
            )

    @property
    def tensors(self) -> tuple[Tensor, Tensor] | None:
        """Images and labels where they were given; None for streamed batches."""
        if isinstance(self.source, tuple) and len(self.source) == 2:
            images, labels = self.source
            if isinstance(images, Tensor) and isinstance(labels, Tensor):
                return images, labels.to(images.device)
        return None

    @cached_property
    def resident(self) -> tuple[Tensor, Tensor] | None:
        """Images and labels on the device; None where they are streamed, do not fit or must not be there."""
        if self.tensors is None:
            return None
        images, labels = self.tensors
        if torch.device(self.device).type == "cuda" and images.device.type == "cpu":
            free, _ = torch.cuda.mem_get_info(self.device)
            if self.on_host or images.nbytes > free * _RESIDENT_FRACTION:
                return None
        return images.to(self.device), labels.to(self.device)

    @cached_property
    def num_images(self) -> int:
        """n; streamed batches are read through once to count them."""
        return len(self.tensors[1]) if self.tensors is not None else sum(len(labels) for _, labels in self.source)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches in a pass over the images."""
        if self.tensors is not None:
            return math.ceil(self.num_images / batch_size)
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return sum(1 for _ in self.source)

    def ordered(self, batch_size: int, order: Tensor | None = None) -> Generator[Batch]:
        """One pass as the images stand; tensors in ``order``, a permutation of them, where it is given."""
        return self._ready(self._pass(batch_size, order))

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Generator[Batch]:
        """Batches without end, each pass in a new order; a batch of all images keeps theirs.

        Streamed batches come in the order that their source gives them. ``generator`` may draw an order ahead.
        """

        def passes() -> Iterator[tuple[Any, Any]]:
            while True:
                if self.tensors is None or batch_size >= self.num_images:
                    yield from self._pass(batch_size, None)
                else:
                    yield from self._pass(batch_size, torch.randperm(self.num_images, generator=generator))

        return self._ready(passes())

    def _pass(self, batch_size: int, order: Tensor | None) -> Iterator[tuple[Any, Any]]:
        """The batches of a pass, on the device where the images are there, else as a `Feed` takes them."""
        tensors = self.resident or self.tensors
        if tensors is None:
            yield from cast("Iterable[Batch]", self.source)
            return
        images, labels = tensors
        # Once for the pass: an index that each batch copied to the device would make it wait each time.
        of_images, of_labels = (None if order is None else order.to(tensor.device) for tensor in tensors)
        for start in range(0, len(labels), batch_size):
            piece = slice(start, start + batch_size)
            if of_images is None or of_labels is None:
                yield images[piece], labels[piece]
            elif self.resident is None:
                yield Rows(images, of_images[piece]), Rows(labels, of_labels[piece])
            else:
                yield images.index_select(0, of_images[piece]), labels.index_select(0, of_labels[piece])

    def _ready(self, batches: Iterator[tuple[Any, Any]]) -> Generator[Batch]:
        for images, labels in batches if self.resident is not None else Feed(batches, self.device):
            yield (images if self.preprocess is None else self.preprocess(images)), labels
