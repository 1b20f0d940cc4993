"""Augmentation of whole batches on the device they are on, with everything drawn per image.

(torchvision's own transforms draw once per call, so that all images of a batch would get the same crop.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from pipeline.records import Hyperparameters

# Of the image, for a crop: App. J.2.1 of the model-soups paper, and timm's default.
_MIN_AREA, _MIN_AREA_MEDIUM = 0.9, 0.08
_MAX_RATIO = 4 / 3  # of the sides of a crop
_JITTER = 0.4  # of brightness, contrast and saturation; timm's default
_MAX_MAGNITUDE = 30

Operation = Callable[[Tensor, float], Tensor]


def augment(images: Tensor, hyper: Hyperparameters, generator: torch.Generator) -> Tensor:
    """Augmented copies of ``images``, uint8 (B, 3, H, W), in the same form and on the same device.

    ``hyper.augmentation`` is ``minimal``: a random crop of 90-100 % of the area, resized back; ``medium``: a crop of
    8-100 %, a flip for every other image, brightness, contrast and saturation changed by up to 40 %; or ``randaugment``
    and ``strong``: the minimal crop, then ``randaugment_n`` rounds of one of the 14 operations of RandAugment with
    magnitude ``randaugment_m`` of 30. All is drawn for each image from ``generator``, which may be on another device.
    """
    if hyper.augmentation == "medium":
        images = _random_resized_crop(images, _MIN_AREA_MEDIUM, generator)
        return _colour_jitter(_random_flip(images, generator), generator)
    images = _random_resized_crop(images, _MIN_AREA, generator)
    for _ in range(hyper.randaugment_n):
        images = _randaugment_round(images, hyper.randaugment_m, generator)
    return images


def mix(images: Tensor, targets: Tensor, hyper: Hyperparameters, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix as ``hyper`` says, of float images (B, 3, H, W) and targets (B, C); of both, one by chance."""
    if hyper.mixup and hyper.cutmix:
        takes_mixup = torch.rand(len(images), generator=generator, device=generator.device).to(images.device) < 0.5
        mixed, pasted = mixup(images, targets, hyper.mixup, generator), cutmix(images, targets, hyper.cutmix, generator)
        return (
            torch.where(takes_mixup[:, None, None, None], mixed[0], pasted[0]),
            torch.where(takes_mixup[:, None], mixed[1], pasted[1]),
        )
    images, targets = mixup(images, targets, hyper.mixup, generator)
    return cutmix(images, targets, hyper.cutmix, generator)


def mixup(images: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image, float (B, 3, H, W), and its target, float (B, C), with those of another image of the batch.

    The share of the image itself is drawn from Beta(alpha, alpha) for each image; with ``alpha`` 0 nothing is mixed.
    """
    if alpha == 0:
        return images, targets
    share, other = _partners(images, alpha, generator)
    share_image, share_target = share[:, None, None, None], share.to(targets.dtype)[:, None]
    return (
        torch.lerp(images[other], images, share_image),
        torch.lerp(targets[other], targets, share_target),
    )


def cutmix(images: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste a box of another image of the batch into each image, float (B, 3, H, W), and mix targets by its area.

    The share of the image itself is drawn from Beta(alpha, alpha) and the centre of the box uniformly, for each image;
    what the border cuts off is given back (Yun et al., 2019). With ``alpha`` 0 nothing is pasted.
    """
    if alpha == 0:
        return images, targets
    share, other = _partners(images, alpha, generator)
    # A pixel is in the box where both its row and its column are within half a side of the centre: rows (B, H) and
    # columns (B, W) make the box (B, 1, H, W). The border cuts it off, so its share is counted in the end.
    half_side = (1 - share).sqrt() / 2
    centre = torch.rand(2, len(images), generator=generator, device=generator.device).to(images.device)
    rows, columns = (
        (torch.arange(length, device=images.device) + 0.5 - (centre[axis] * length)[:, None]).abs()
        <= (half_side * length)[:, None]
        for axis, length in enumerate(images.shape[-2:])
    )
    box = rows[:, None, :, None] & columns[:, None, None, :]
    own_share = 1 - box.to(targets.dtype).mean(dim=(2, 3))
    return torch.where(box, images[other], images), torch.lerp(targets[other], targets, own_share)


def _partners(images: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """For each image a share from Beta(alpha, alpha) and the index of another image of the batch."""
    # torch draws from the Beta distribution with its global generator only.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    shares = np.random.default_rng(seed).beta(alpha, alpha, size=len(images))
    share = torch.from_numpy(shares).to(images.device, images.dtype)
    return share, torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)


def _random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    flip = torch.rand(len(images), generator=generator, device=generator.device).to(images.device) < 0.5
    return torch.where(flip[:, None, None, None], images.flip(-1), images)


def _colour_jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation by factors of 1 - 0.4 to 1 + 0.4, in a random order."""
    draws = torch.rand(6, len(images), generator=generator, device=generator.device).to(images.device)
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


def _random_resized_crop(images: Tensor, min_area: float, generator: torch.Generator) -> Tensor:
    """Area uniform from ``min_area`` to 1, log aspect ratio uniform in what fits and is below 4/3, position uniform."""
    draws = torch.rand(4, len(images), generator=generator, device=generator.device).to(images.device)
    area = min_area + (1 - min_area) * draws[0]
    # width, height = sqrt(area * ratio), sqrt(area / ratio) are at most 1 for ratios between area and 1 / area.
    root_ratio = torch.exp(area.log().clamp(min=-math.log(_MAX_RATIO)) * (draws[1] - 0.5))
    width, height = area.sqrt() * root_ratio, area.sqrt() / root_ratio
    # x (B, W) and y (B, H) are where in the image the pixels of the crop lie; their grid is (B, H, W, 2).
    x = ((2 * draws[2] - 1) * (1 - width))[:, None] + width[:, None] * _centres(images.shape[-1], images.device)
    y = ((2 * draws[3] - 1) * (1 - height))[:, None] + height[:, None] * _centres(images.shape[-2], images.device)
    shape = (len(images), y.shape[1], x.shape[1])
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
    cropped = torch.nn.functional.grid_sample(
        images.float(), grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    return cropped.round_().clamp_(0, 255).to(torch.uint8)


def _centres(length: int, device: torch.device) -> Tensor:
    """Of the pixels along a side, in the coordinates of grid_sample, where the image spans [-1, 1]."""
    return (2 * torch.arange(length, device=device) + 1) / length - 1


def _randaugment_round(images: Tensor, magnitude: int, generator: torch.Generator) -> Tensor:
    # Every image draws an operation and a sign; the images that drew the same go through it together, in one call.
    # Which these are decides about the calls below, so the host must know.
    device = generator.device
    operation_of_image = torch.randint(len(_OPERATIONS), (len(images),), generator=generator, device=device).cpu()
    sign = (torch.randint(2, (len(images),), generator=generator, device=device) * 2 - 1).cpu()
    result = images.clone()
    for number, (operation, signed) in enumerate(_OPERATIONS.values()):
        for direction in (-1, 1) if signed else (1,):
            takes_it = operation_of_image == number
            if signed:
                takes_it &= sign == direction
            rows = takes_it.nonzero()[:, 0].to(images.device)
            if len(rows):
                result[rows] = operation(images[rows], direction * magnitude / _MAX_MAGNITUDE)
    return result


def _affine(images: Tensor, shear: tuple[float, float] = (0, 0), translate: tuple[int, int] = (0, 0)) -> Tensor:
    moved: Tensor = F.affine(
        images,
        angle=0.0,
        translate=list(translate),
        scale=1.0,
        shear=list(shear),
        interpolation=InterpolationMode.BILINEAR,
        center=[0.0, 0.0],
    )
    return moved


def _shear(slope: float) -> float:
    return math.degrees(math.atan(slope))


def _shift(side: int, strength: float) -> int:
    return int(150 / 331 * side * strength)


# Each takes uint8 images and a strength in [-1, 1], or [0, 1] where the sign has no meaning (False). Strengths become
# settings as in torchvision's RandAugment.
_OPERATIONS: dict[str, tuple[Operation, bool]] = {
    "identity": (lambda images, strength: images, False),
    "shear_x": (lambda images, strength: _affine(images, shear=(_shear(0.3 * strength), 0)), True),
    "shear_y": (lambda images, strength: _affine(images, shear=(0, _shear(0.3 * strength))), True),
    "translate_x": (
        lambda images, strength: _affine(images, translate=(_shift(images.shape[-1], strength), 0)),
        True,
    ),
    "translate_y": (
        lambda images, strength: _affine(images, translate=(0, _shift(images.shape[-2], strength))),
        True,
    ),
    "rotate": (
        lambda images, strength: F.rotate(images, 30 * strength, interpolation=InterpolationMode.BILINEAR),
        True,
    ),
    "brightness": (lambda images, strength: F.adjust_brightness(images, 1 + 0.9 * strength), True),
    "color": (lambda images, strength: F.adjust_saturation(images, 1 + 0.9 * strength), True),
    "contrast": (lambda images, strength: F.adjust_contrast(images, 1 + 0.9 * strength), True),
    "sharpness": (lambda images, strength: F.adjust_sharpness(images, 1 + 0.9 * strength), True),
    "posterize": (lambda images, strength: F.posterize(images, bits=8 - round(4 * strength)), False),
    "solarize": (lambda images, strength: F.solarize(images, threshold=255 * (1 - strength)), False),
    "autocontrast": (lambda images, strength: F.autocontrast(images), False),
    "equalize": (lambda images, strength: F.equalize(images), False),
}
