"""From an image as its source has it to the pixels in the store."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def decode(pixels: Path | bytes | npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The image as RGB pixels, uint8 (3, size, size).

    The shorter side is resized to ``size``, bicubic with antialias, and the centre kept. Raises what Pillow raises (of
    many kinds) for anything that is no image.
    """
    if isinstance(pixels, np.ndarray):
        if pixels.shape[:2] == (size, size):
            return pixels.transpose(2, 0, 1)
        return _resize(Image.fromarray(pixels), size)
    with Image.open(pixels if isinstance(pixels, Path) else io.BytesIO(pixels)) as image:
        # Lets the JPEG decoder leave out detail that the resizing below would drop; photos decode several times faster.
        image.draft("RGB", (2 * size, 2 * size))
        return _resize(_rgb(image), size)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip instead of scale
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _resize(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(image).transpose(2, 0, 1)
