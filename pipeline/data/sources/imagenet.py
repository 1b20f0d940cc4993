"""ImageNet-1k as its archives unpack: ``root/train`` and ``root/val`` with a folder per WordNet id."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from pipeline.config import DataConfig
from pipeline.data.sources.base import RawExamples, Source, required
from pipeline.data.sources.image_folder import IMAGE_FOLDER
from pipeline.errors import DataError

_NUM_CLASSES = 1000


def _as_folders(data: DataConfig) -> DataConfig:
    root: Path = required(data.root, "root")
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise DataError(f"data.root: {root} has no folder '{part}'; it needs 'train' and 'val'")
    return data.model_copy(update={"train": root / "train", "test": root / "val"})


def _open(data: DataConfig) -> RawExamples:
    folders = _as_folders(data)
    images = IMAGE_FOLDER.open(folders)
    num_folders = len(images.class_names or ())
    if num_folders != _NUM_CLASSES:
        raise DataError(
            f"data.root: {folders.train} has {num_folders} class folders, ImageNet has {_NUM_CLASSES}; "
            "for a part of it use source 'image_folder'"
        )
    from torchvision.models import ResNet18_Weights  # slow to import, and every command reads the table of sources

    # In the order of their WordNet ids.
    names = tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return dataclasses.replace(images, class_names=names, folder_names=images.class_names)


IMAGENET = Source(needs=("root",), identity=lambda data: IMAGE_FOLDER.identity(_as_folders(data)), open=_open)
