"""CIFAR-10 and CIFAR-100 as torchvision keeps them."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.sources.base import RawExamples, Source, array_chunks
from pipeline.errors import DataError


def _open(data: DataConfig, name: str) -> RawExamples:
    from torchvision import datasets  # slow to import, and every command reads the table of sources

    dataset, sets = getattr(datasets, name), {}
    for part in ("train", "test"):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # torchvision prints where it found or put the files
                sets[part] = dataset(root=data.root, train=part == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"data.root: {data.root} holds no {name} and it could not be downloaded ({error}); "
                f"copy {dataset.filename} there, or run once with a network"
            ) from error
    train, test = (
        array_chunks(images.data, np.asarray(images.targets, dtype=np.int64), f"{name} {part}")
        for part, images in sets.items()
    )
    return RawExamples(train, test, tuple(label.replace("_", " ") for label in sets["train"].classes))


# torchvision compares the files with published checksums, so the name says all about the images.
CIFAR10 = Source(
    needs=("root",), identity=lambda data: "CIFAR-10", open=lambda data: _open(data, "CIFAR10"), encoded=False
)
CIFAR100 = Source(
    needs=("root",), identity=lambda data: "CIFAR-100", open=lambda data: _open(data, "CIFAR100"), encoded=False
)
