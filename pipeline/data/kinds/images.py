"""Images: RGB pixels, uint8 (3, S, S), augmented and mixed in training, normalised by the model."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.config import DataConfig
from pipeline.data import decode
from pipeline.data.kinds.base import Encoder, Form, Kind, Listed
from pipeline.data.sources import image_folder, parquet
from pipeline.data.sources.base import RawExamples, located
from pipeline.errors import DataError
from pipeline.records import Hyperparameters, ShownExample

if TYPE_CHECKING:
    from pipeline.data.augmentation import Draws


_THUMBNAIL = 64  # pixels


def _size(data: DataConfig) -> int:
    assert data.image_size is not None, "every source of images needs it"  # noqa: S101
    return data.image_size


def _max_pixels(data: DataConfig) -> int:
    return data.max_pixels or decode.MAX_PIXELS


def _form(data: DataConfig) -> Form:
    return Form("image", (3, _size(data), _size(data)), "uint8")


def _encoder(data: DataConfig) -> Encoder:
    return partial(_encode, _size(data), _max_pixels(data))


def _encode(
    size: int, max_pixels: int, image: Path | bytes | npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.uint8], int]:
    return decode.decode(image, size, max_pixels), 0


def _accepted(data: DataConfig) -> str:
    return f"{', '.join(decode.FORMATS)} of at most {_max_pixels(data)} pixels, or as data.max_pixels says"


def _draw(shape: torch.Size, hyper: Hyperparameters, generator: torch.Generator) -> Draws:
    from pipeline.data.augmentation import draw  # which needs torchvision, slow to import

    return draw(shape, hyper, generator)


def _batch(images: Tensor, targets: Tensor, hyper: Hyperparameters, draws: Draws) -> tuple[Tensor, Tensor]:
    from pipeline.data.augmentation import augment, mix

    return mix(augment(images, hyper, draws).float() / 255, targets, draws)


def _probes(data: DataConfig) -> list[tuple[npt.NDArray[np.uint8], str]]:
    size = _size(data)
    said = (
        f"data.image_size: the model takes no images of {size} x {size} pixels ({{reason}}); "
        "set it to the size that the model was made for"
    )
    return [(np.zeros(_form(data).shape, dtype=np.uint8), said)]


def _shift(data: DataConfig, name: str, folder_names: Sequence[str] | None) -> Listed:
    """Parquet files, or a folder for each class, labelled by the classes' own folders."""
    setting = f"shifts.{name}"
    paths = located(data.shifts[name], setting)
    names = None if folder_names is None else tuple(folder_names)
    in_files = paths[0].is_file() or any(paths[0].glob("*.parquet"))
    if not in_files and names is None:
        raise DataError(
            f"data.{setting}: {paths[0]} holds no .parquet files, and the training set has no names by which its "
            "folders could be labelled; give Parquet files"
        )

    def identity() -> str:
        if in_files:
            return "\n".join([parquet.identity(paths, setting, parquet.columns_of(data)), *(names or ())])
        return "\n".join([image_folder.identity(paths, setting), *(names or ())])

    def open_shift() -> RawExamples:
        if in_files:
            chunks, notes = parquet.chunks(paths, parquet.columns_of(data), names, setting)
        else:
            chunks, notes = image_folder.chunks(paths, names or (), setting)
        return RawExamples([], chunks, names, notes=tuple(notes))

    return Listed(identity, open_shift)


def _show(data: DataConfig, images: npt.NDArray[np.uint8]) -> list[ShownExample]:
    return [ShownExample("image/png", _thumbnail(image)) for image in images]


def _thumbnail(image: npt.NDArray[np.uint8]) -> str:
    """An image (3, S, S) as PNG in base64, shrunk, or with every pixel as a square of several, up to `_THUMBNAIL`."""
    picture = Image.fromarray(image.transpose(1, 2, 0))
    size = len(image[0])
    if size > _THUMBNAIL:
        picture = picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    else:
        picture = picture.resize((_THUMBNAIL // size * size,) * 2, Image.Resampling.NEAREST)
    file = io.BytesIO()
    picture.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


IMAGES = Kind(
    singular=decode.NAMES[0],
    plural=decode.NAMES[1],
    contents="pixels",
    needs=("image_size",),
    form=_form,
    encoder=_encoder,
    accepted=_accepted,
    key=_size,
    version=decode.VERSION,
    draw=_draw,
    batch=_batch,
    inputs=lambda data: {"image_size": _size(data)},
    reader=decode,
    probes=_probes,
    shift=_shift,
    exported=lambda images: images.float() / 255,
    show=_show,
)
