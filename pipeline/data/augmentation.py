"""Augmentation of whole batches on the device they are on, with everything drawn per image.

(torchvision's own transforms draw once per call, so that all images of a batch would get the same crop.)

What is random about a batch is drawn first, on the host, by its shape alone (`draw`). `augment` and `mix` then do it on
the device without asking that for anything, so that the host never waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample
from torchvision.transforms.v2 import functional as F

from pipeline.records import Hyperparameters

# Of the image, for a crop: App. J.2.1 of the model-soups paper, and timm's default.
_MIN_AREA, _MIN_AREA_MEDIUM = 0.9, 0.08
_MAX_RATIO = 4 / 3  # of the sides of a crop
_JITTER = 0.4  # of brightness, contrast and saturation; timm's default
_MAX_MAGNITUDE = 30

# Takes uint8 images and a strength in [-1, 1], or [0, 1] where the sign has no meaning.
Operation = Callable[[Tensor, float], Tensor]
# From a strength in [-1, 1] and the sides of an image (height, width) to a matrix (2, 3), which takes (x, y, 1) of a
# pixel of the result, counted from the centre, to where in the image it comes from.
Movement = Callable[[float, tuple[int, int]], tuple[tuple[float, float, float], tuple[float, float, float]]]


class Round(NamedTuple):
    """What each of B images goes through in a round of RandAugment.

    In ``order`` (B,) those that go through the same stand together; ``back`` (B,) is where each image stands there.
    ``sizes`` are how many are left alone, how many are moved, and how many go through each of `_RECOLOURINGS`.
    ``matrices`` (moved, 3, 2) take (x, y, 1) of a pixel to the coordinates of grid_sample.
    """

    order: Tensor
    back: Tensor
    sizes: tuple[int, ...]
    matrices: Tensor


class Mixup(NamedTuple):
    """For each of B images the index of one to mix it with, ``other`` (B,), and its own ``share`` (B,)."""

    share: Tensor
    other: Tensor


class Cutmix(NamedTuple):
    """As `Mixup`, and where the pasted box is: ``centre`` (2, B), down and across, in [0, 1)."""

    share: Tensor
    other: Tensor
    centre: Tensor


class Draws(NamedTuple):
    """All that is random about a batch of B images; None for what is not done to them.

    Uniform in [0, 1) are ``crop`` (4, B), ``flip`` (B,), ``jitter`` (6, B) and ``takes_mixup`` (B,), which decides
    between mixup and CutMix.
    """

    crop: Tensor
    flip: Tensor | None
    jitter: Tensor | None
    rounds: tuple[Round, ...]
    takes_mixup: Tensor | None
    mixup: Mixup | None
    cutmix: Cutmix | None


def draw(shape: torch.Size, hyper: Hyperparameters, generator: torch.Generator) -> Draws:
    """What `augment` and `mix` do to a batch of ``shape`` (B, 3, H, W): CPU tensors, from a generator of the CPU."""
    count, _, *sides = shape
    medium, both = hyper.augmentation == "medium", bool(hyper.mixup and hyper.cutmix)
    return Draws(
        crop=torch.rand(4, count, generator=generator),
        flip=torch.rand(count, generator=generator) if medium else None,
        jitter=torch.rand(6, count, generator=generator) if medium else None,
        rounds=tuple(
            draw_round(count, (sides[0], sides[1]), hyper.randaugment_m, generator)
            for _ in range(0 if medium else hyper.randaugment_n)
        ),
        takes_mixup=torch.rand(count, generator=generator) if both else None,
        mixup=draw_mixup(count, hyper.mixup, generator) if hyper.mixup else None,
        cutmix=draw_cutmix(count, hyper.cutmix, generator) if hyper.cutmix else None,
    )


def draw_round(count: int, sides: tuple[int, int], magnitude: int, generator: torch.Generator) -> Round:
    """An operation and a sign for each of ``count`` images."""
    kinds = 1 + len(_MOVEMENTS) + len(_SIGNED) + len(_UNSIGNED)
    choice = 2 * torch.randint(kinds, (count,), generator=generator) + torch.randint(2, (count,), generator=generator)
    order = choice.argsort(stable=True)
    # (kinds, 2), by operation and sign, in the order of `choice`.
    still, moved, signed, unsigned = (
        torch.bincount(choice, minlength=2 * kinds)
        .view(kinds, 2)
        .split((1, len(_MOVEMENTS), len(_SIGNED), len(_UNSIGNED)))
    )
    sizes = (int(still.sum()), int(moved.sum()), *signed.flatten().tolist(), *unsigned.sum(dim=1).tolist())
    strength = magnitude / _MAX_MAGNITUDE
    table = [movement(sign * strength, sides) for movement in _MOVEMENTS.values() for sign in (-1, 1)]
    matrices = torch.tensor(table)[choice[order[sizes[0] : sizes[0] + sizes[1]]] - 2]  # less those of images left alone
    half_sides = torch.tensor([sides[1] / 2, sides[0] / 2])
    return Round(order, order.argsort(), sizes, matrices.transpose(1, 2) / half_sides)


def draw_mixup(count: int, alpha: float, generator: torch.Generator) -> Mixup:
    """The share of each of ``count`` images is from Beta(alpha, alpha)."""
    # torch draws from the Beta distribution with its global generator only.
    seed = int(torch.randint(2**62, (), generator=generator))
    shares = np.random.default_rng(seed).beta(alpha, alpha, size=count)
    return Mixup(torch.from_numpy(shares).float(), torch.randperm(count, generator=generator))


def draw_cutmix(count: int, alpha: float, generator: torch.Generator) -> Cutmix:
    """The same shares; centres are uniform."""
    return Cutmix(*draw_mixup(count, alpha, generator), torch.rand(2, count, generator=generator))


def augment(images: Tensor, hyper: Hyperparameters, draws: Draws) -> Tensor:
    """Augmented copies of ``images``, uint8 (B, 3, H, W), in the same form; ``draws`` are on the same device.

    ``hyper.augmentation`` is ``minimal``: a random crop of 90-100 % of the area, resized back; ``medium``: a crop of
    8-100 %, a flip for every other image, brightness, contrast and saturation changed by up to 40 %; or ``randaugment``
    and ``strong``: the minimal crop, then ``randaugment_n`` rounds of one of the 14 operations of RandAugment with
    magnitude ``randaugment_m`` of 30.
    """
    images = resized_crop(images, _MIN_AREA_MEDIUM if hyper.augmentation == "medium" else _MIN_AREA, draws.crop)
    if draws.flip is not None:
        images = torch.where((draws.flip < 0.5)[:, None, None, None], images.flip(-1), images)
    if draws.jitter is not None:
        images = _jittered(images, draws.jitter)
    for drawn in draws.rounds:
        images = randaugmented(images, hyper.randaugment_m, drawn)
    return images


def mix(images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix as drawn, of float images (B, 3, H, W) and targets (B, C); of both, one by chance."""
    mixed = pasted = images, targets
    if draws.mixup is not None:
        mixed = mixup(images, targets, draws.mixup)
    if draws.cutmix is not None:
        pasted = cutmix(images, targets, draws.cutmix)
    if draws.takes_mixup is None:
        return mixed if draws.cutmix is None else pasted
    takes_mixup = draws.takes_mixup < 0.5
    return (
        torch.where(takes_mixup[:, None, None, None], mixed[0], pasted[0]),
        torch.where(takes_mixup[:, None], mixed[1], pasted[1]),
    )


def mixup(images: Tensor, targets: Tensor, drawn: Mixup) -> tuple[Tensor, Tensor]:
    """Mix each image, float (B, 3, H, W), and its target, float (B, C), with those of another image of the batch."""
    share_image = drawn.share.to(images.dtype)
    return (
        torch.lerp(images.index_select(0, drawn.other), images, share_image[:, None, None, None]),
        torch.lerp(targets.index_select(0, drawn.other), targets, share_image.to(targets.dtype)[:, None]),
    )


def cutmix(images: Tensor, targets: Tensor, drawn: Cutmix) -> tuple[Tensor, Tensor]:
    """Paste a box of another image of the batch into each image, float (B, 3, H, W), and mix targets by its area.

    The box has what the image's own share leaves of the area; what the border cuts off of it is given back (Yun et al.,
    2019).
    """
    # A pixel is in the box where both its row and its column are within half a side of the centre: rows (B, H) and
    # columns (B, W) make the box (B, 1, H, W). The border cuts it off, so its share is counted in the end.
    half_side = (1 - drawn.share.to(images.dtype)).sqrt() / 2
    rows, columns = (
        (torch.arange(length, device=images.device) + 0.5 - (drawn.centre[axis] * length)[:, None]).abs()
        <= (half_side * length)[:, None]
        for axis, length in enumerate(images.shape[-2:])
    )
    box = rows[:, None, :, None] & columns[:, None, None, :]
    own_share = 1 - box.to(targets.dtype).mean(dim=(2, 3))
    return (
        torch.where(box, images.index_select(0, drawn.other), images),
        torch.lerp(targets.index_select(0, drawn.other), targets, own_share),
    )


def resized_crop(images: Tensor, min_area: float, draws: Tensor) -> Tensor:
    """Area uniform from ``min_area`` to 1, log aspect ratio uniform in what fits and is below 4/3, position uniform."""
    area = min_area + (1 - min_area) * draws[0]
    # width, height = sqrt(area * ratio), sqrt(area / ratio) are at most 1 for ratios between area and 1 / area.
    root_ratio = torch.exp(area.log().clamp(min=-math.log(_MAX_RATIO)) * (draws[1] - 0.5))
    width, height = area.sqrt() * root_ratio, area.sqrt() / root_ratio
    # x (B, W) and y (B, H) are where in the image the pixels of the crop lie; their grid is (B, H, W, 2).
    x = ((2 * draws[2] - 1) * (1 - width))[:, None] + width[:, None] * _centres(images.shape[-1], images.device)
    y = ((2 * draws[3] - 1) * (1 - height))[:, None] + height[:, None] * _centres(images.shape[-2], images.device)
    shape = (len(images), y.shape[1], x.shape[1])
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
    cropped = grid_sample(images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False)
    return cropped.round_().clamp_(0, 255).to(torch.uint8)


def _centres(length: int, device: torch.device) -> Tensor:
    """Of the pixels along a side, in the coordinates of grid_sample, where the image spans [-1, 1]."""
    return (2 * torch.arange(length, device=device) + 1) / length - 1


def _jittered(images: Tensor, draws: Tensor) -> Tensor:
    """Brightness, contrast and saturation by factors of 1 - 0.4 to 1 + 0.4, in a random order."""
    factors = 1 + _JITTER * (2 * draws[:3] - 1)[:, :, None, None, None]
    # order (3, B): in step s, image i takes the property number order[s, i]. Each property is changed by moving from
    # an image without it (black, evenly grey, grey) through the image itself; every image keeps one change per step.
    order = draws[3:].argsort(dim=0)
    pixels = images.float()
    for step in range(3):
        grey = F.rgb_to_grayscale(pixels)
        black = torch.zeros_like(grey)
        for number, without in enumerate((black, grey.mean(dim=(2, 3), keepdim=True).expand_as(grey), grey)):
            changed = torch.lerp(without.expand_as(pixels), pixels, factors[number]).clamp(0, 255)
            pixels = torch.where((order[step] == number)[:, None, None, None], changed, pixels)
    return pixels.round().to(torch.uint8)


def randaugmented(images: Tensor, magnitude: int, drawn: Round) -> Tensor:
    """The images after a round of RandAugment: those that drew the same go through it together, in one call."""
    still, moved, *recoloured = images.index_select(0, drawn.order).split(drawn.sizes)
    results = [still]
    if len(moved):
        results.append(_moved(moved, drawn.matrices))
    for (operation, sign), group in zip(_RECOLOURINGS, recoloured, strict=True):
        if len(group):
            results.append(operation(group, sign * magnitude / _MAX_MAGNITUDE))
    return torch.cat(results).index_select(0, drawn.back)


def _moved(images: Tensor, matrices: Tensor) -> Tensor:
    """Pixels of the result (x, y, 1), counted from the centre, times ``matrices`` are where in the image they lie."""
    y, x = (torch.linspace((1 - side) / 2, (side - 1) / 2, side, device=images.device) for side in images.shape[-2:])
    pixels = torch.ones(y.shape[0], x.shape[0], 3, device=images.device)
    pixels[..., 0] = x
    pixels[..., 1] = y[:, None]
    grid = pixels.view(1, -1, 3).expand(len(images), -1, -1).bmm(matrices).view(len(images), *pixels.shape[:2], 2)
    return grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False).round_().to(torch.uint8)


def _sharpened(images: Tensor, factor: float) -> Tensor:
    """From the image's inner pixels averaged with their neighbours through the image itself; its border stays."""
    if min(images.shape[-2:]) < 3:
        return images
    pixels = images.float()
    weights = torch.full((3, 1, 3, 3), 1 / 13, device=images.device)
    weights[:, :, 1, 1] = 5 / 13
    inner = pixels[..., 1:-1, 1:-1]
    inner.add_(conv2d(pixels, weights, groups=3).round_().sub_(inner), alpha=1 - factor)
    return pixels.clamp_(0, 255).to(torch.uint8)


def _shift(side: int, strength: float) -> int:
    return int(150 / 331 * side * strength)


def _rotation(degrees: float) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cosine, -sine, 0), (sine, cosine, 0)


# The 14 operations, with strengths that become settings as in torchvision's RandAugment: none at all; movements;
# changes of colour with a sign and without.
_MOVEMENTS: dict[str, Movement] = {
    "shear_x": lambda strength, sides: ((1, 0.3 * strength, 0.3 * strength * sides[0] / 2), (0, 1, 0)),
    "shear_y": lambda strength, sides: ((1, 0, 0), (0.3 * strength, 1, 0.3 * strength * sides[1] / 2)),
    "translate_x": lambda strength, sides: ((1, 0, -_shift(sides[1], strength)), (0, 1, 0)),
    "translate_y": lambda strength, sides: ((1, 0, 0), (0, 1, -_shift(sides[0], strength))),
    "rotate": lambda strength, sides: _rotation(30 * strength),
}
_SIGNED: dict[str, Operation] = {
    "brightness": lambda images, strength: F.adjust_brightness(images, 1 + 0.9 * strength),
    "color": lambda images, strength: F.adjust_saturation(images, 1 + 0.9 * strength),
    "contrast": lambda images, strength: F.adjust_contrast(images, 1 + 0.9 * strength),
    "sharpness": lambda images, strength: _sharpened(images, 1 + 0.9 * strength),
}
_UNSIGNED: dict[str, Operation] = {
    "posterize": lambda images, strength: F.posterize(images, bits=8 - round(4 * strength)),
    "solarize": lambda images, strength: F.solarize(images, threshold=255 * (1 - strength)),
    "autocontrast": lambda images, strength: F.autocontrast(images),
    "equalize": lambda images, strength: F.equalize(images),
}
_RECOLOURINGS = [
    *((operation, sign) for operation in _SIGNED.values() for sign in (-1, 1)),
    *((operation, 1) for operation in _UNSIGNED.values()),
]
