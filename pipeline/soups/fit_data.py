"""The validation images that a soup learns from: two tensors kept on the device, or batches streamed to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

from pipeline.errors import SoupError

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

    Batches come out on ``device``, preprocessed. Nothing here knows what an image is: rows of token ids are cut into
    batches alike. Streamed batches keep the size that they come in; ``batch_size`` below is that of tensors. With
    ``on_host`` only the batch at work is on a CUDA device.
    """

    source: Fit
    device: str
    preprocess: Preprocess | None = None
    on_host: bool = False

    def __post_init__(self) -> None:
        tensors = _tensors(self.source)
        if tensors is not None:
            images, labels = tensors
            if len(images) != len(labels) or len(images) == 0:
                raise SoupError(
                    f"{len(images)} fit images and {len(labels)} labels; give one label per image, at least one"
                )
        elif iter(self.source) is self.source:
            raise SoupError(
                "fit is an iterator that can be read only once; give two tensors or a re-iterable of batches"
            )

    @cached_property
    def resident(self) -> tuple[Tensor, Tensor] | None:
        """Images, on the device where they fit and may, and labels on it; None for streamed batches."""
        tensors = _tensors(self.source)
        if tensors is None:
            return None
        images, labels = tensors
        if torch.device(self.device).type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if self.on_host or images.nbytes > free * _RESIDENT_FRACTION:
                return images, labels.to(self.device)
        return images.to(self.device), labels.to(self.device)

    @cached_property
    def num_images(self) -> int:
        """n; streamed batches are read through once to count them."""
        tensors = _tensors(self.source)
        return len(tensors[1]) if tensors is not None else sum(len(labels) for _, labels in self.source)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Batches in a pass over the images."""
        if _tensors(self.source) is not None:
            return math.ceil(self.num_images / batch_size)
        try:
            return len(self.source)  # type: ignore[arg-type]
        except TypeError:
            return sum(1 for _ in self.source)

    def ordered(self, batch_size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """One pass as the images stand; tensors in ``order``, a permutation of them, where it is given."""
        if self.resident is None:
            for images, labels in self.source:
                yield self._ready(images, labels)
            return
        images, labels = self.resident
        if order is None:
            for start in range(0, len(labels), batch_size):
                piece = slice(start, start + batch_size)
                yield self._ready(images[piece], labels[piece])
            return
        # Once for the pass: an index that each batch copied to the device would make it wait each time.
        of_images, of_labels = order.to(images.device), order.to(labels.device)
        for start in range(0, len(labels), batch_size):
            piece = slice(start, start + batch_size)
            yield self._ready(images.index_select(0, of_images[piece]), labels.index_select(0, of_labels[piece]))

    def shuffled(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Batches without end, each pass in a new order; a batch of all images keeps theirs.

        Streamed batches come in the order that their source gives them.
        """
        while True:
            if self.resident is None or batch_size >= self.num_images:
                yield from self.ordered(batch_size)
                continue
            yield from self.ordered(batch_size, torch.randperm(self.num_images, generator=generator))

    def _ready(self, images: Tensor, labels: Tensor) -> Batch:
        images, labels = images.to(self.device), labels.to(self.device)
        return (images if self.preprocess is None else self.preprocess(images)), labels


def _tensors(fit: Fit) -> tuple[Tensor, Tensor] | None:
    if isinstance(fit, tuple) and len(fit) == 2:
        first, second = fit
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return first, second
    return None
