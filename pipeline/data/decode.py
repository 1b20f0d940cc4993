"""From an image as its source has it to the pixels that models see.

A served soup has a copy of this file (see `ReaderModule`), so that it reads images as they were read for training: it
imports nothing of this package.

Whoever asks a served soup may send anything. So an image may have at most ``SOUP_MAX_PIXELS`` pixels (an environment
variable of the server), known before it is decoded. All images that are decoded at a time, by all requests together,
have no more either: an image waits until there is room for it, and is refused if there is none in `_PATIENCE` seconds.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor, nn

REQUIREMENTS: tuple[str, ...] = ("pillow",)
NAMES = ("image", "images")

# What is read, by Pillow's name, with the names that such files have. Of a file with several images (an animation, a
# TIFF of several pages) the first is read. Pillow opens more, some of them by starting other programs.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
# Part of the key of a store: to be raised when files come out as other pixels. 2: EXIF orientation, transparency.
VERSION = 2
# What an image may have, unless a setting says otherwise: as many as Pillow reads. A file of half a megabyte may have
# hundreds of millions, which take gigabytes once they are decoded.
MAX_PIXELS = 178_956_970

_LIMIT = "SOUP_MAX_PIXELS"
_MAX_SERVED = 2**26  # photos of 60 megapixels have fewer; decoded they take up to 16 bytes each, 1 GiB together
_PATIENCE = 5.0  # seconds
_PILLOW_BLOCK = 2**26  # bytes; of smaller ones, 2**24 by itself, malloc would keep some for every thread that decoded
_BAND = 2**20  # pixels that are turned into RGB at a time
_BACKGROUND = 255  # white, on which what is transparent is laid
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    pixels: Path | bytes | npt.NDArray[np.uint8], size: int, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """The image as people see it, as RGB pixels, uint8 (3, size, size).

    It is turned as its EXIF data say, and what is transparent is laid on white. The shorter side is resized to
    ``size``, bicubic with antialias, and the centre kept. Raises ValueError or what Pillow raises (of many kinds) for
    anything that is no image of `FORMATS` of at most ``max_pixels``.
    """
    if isinstance(pixels, np.ndarray):
        if pixels.shape[:2] == (size, size):
            return pixels.transpose(2, 0, 1)
        return _resize(Image.fromarray(pixels), size)
    with open_image(pixels, max_pixels) as image:
        return read_image(image, size)


def open_image(file: Path | bytes, max_pixels: int) -> Image.Image:
    """The image of a file of which only the header is read; raises as `decode`."""
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit, of the process: it refuses more than twice as many
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, (max_pixels + 1) // 2)
    try:
        image = Image.open(file if isinstance(file, Path) else io.BytesIO(file), formats=tuple(FORMATS))
    except UnidentifiedImageError as error:
        raise ValueError("cannot identify image file") from error
    except Image.DecompressionBombError as error:
        raise ValueError(_too_many(max_pixels)) from error
    if num_pixels(image) > max_pixels:
        image.close()
        raise ValueError(_too_many(max_pixels))
    return image


def num_pixels(image: Image.Image) -> int:
    """How many pixels of an opened image are decoded at a time."""
    pixels = image.width * image.height
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # its tiles may be larger than the image
        width, height = (image.tag_v2.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
        if isinstance(width, int) and isinstance(height, int):
            return max(pixels, width * height)
    return pixels


def _too_many(max_pixels: int) -> str:
    return f"it has more than {max_pixels} pixels"


def read_image(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """The pixels of an opened image; see `decode`."""
    # Lets the JPEG decoder leave out detail that the resizing below would drop; photos decode several times faster.
    image.draft("RGB", (2 * size, 2 * size))
    image.load()
    return _resize(_rgb(_upright(image)), size)


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of any kind: EXIF data that cannot be read say nothing, and the pixels are there
        return image
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are real numbers of an unknown range; save it with 8 or 16 bits")
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    # In bands, as on the way a pixel takes many times the room that it takes before and after.
    result = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        result.paste(_band_rgb(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return result


def _band_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*3 * (_BACKGROUND,), 255)), image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow would clip instead of scale; with its transparent value, if it has one."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError("its pixels are numbers of more than 16 bits; save it with 8 or 16 bits")
    grey = (values >> 8).astype(np.uint8)
    if (clear := image.info.get("transparency")) is None:
        return Image.fromarray(grey)
    return Image.fromarray(np.stack([grey, np.where(values == clear, 0, 255).astype(np.uint8)], axis=-1), "LA")


def _resize(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    side = min(image.size)
    left, top = ((length - side) / 2 for length in image.size)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.asarray(image).transpose(2, 0, 1)


class _Normalize(nn.Module):
    """Images (B, 3, H, W), uint8 or with values in [0, 1], less a mean, by a standard deviation, of each channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """What towers take."""
        pixels = images.to(self.mean.dtype)
        if not images.is_floating_point():
            pixels = pixels / 255
        return (pixels - self.mean) / self.std


def prepare(inputs: Mapping[str, Any]) -> nn.Module:
    """The normalisation that a model with ``mean`` and ``std`` begins with; see `ReaderModule`."""
    return _Normalize(inputs["mean"], inputs["std"])


def columns(inputs: Mapping[str, Any]) -> dict[str, str]:
    """What a served soup is asked with: the bytes of a JPEG, PNG, ... file."""
    return {"image": "binary"}


def example(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A PNG file with a grey ramp."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((inputs["image_size"],) * 2).save(file, "png")
    return {"image": file.getvalue()}


class _Room:
    """The pixels that may be decoded at a time."""

    def __init__(self, pixels: int) -> None:
        self.pixels = self._free = pixels
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Take this many for the time of the block; raises TimeoutError where others have them for too long."""
        with self._changed:
            if not self._changed.wait_for(lambda: pixels <= self._free, _PATIENCE):
                raise TimeoutError("busy with the images of others; ask again later")
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


class Reader:
    """From the bytes of an image to uint8 (3, S, S) within the limits above; see `ReaderModule`."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        text = os.environ.get(_LIMIT, str(_MAX_SERVED))
        if not text.isdecimal() or int(text) == 0:
            raise ValueError(f"{_LIMIT}: must be a number of pixels ({_MAX_SERVED}), got '{text}'")
        self.size: int = inputs["image_size"]
        self.room = _Room(int(text))
        Image.core.set_block_size(_PILLOW_BLOCK)  # type: ignore[attr-defined]

    def __call__(self, values: Mapping[str, Any]) -> npt.NDArray[np.uint8]:
        """The image as the network was trained on."""
        try:
            with open_image(values["image"], self.room.pixels) as image, self.room.taken(num_pixels(image)):
                return read_image(image, self.size)
        except TimeoutError:
            raise
        except Exception as error:  # of any kind, as Pillow raises them
            raise ValueError(
                f"cannot be read ({error}); give the bytes of a JPEG, PNG, ... file in base64, of at most "
                f"{self.room.pixels} pixels"
            ) from error
