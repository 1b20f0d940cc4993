import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from pipeline.data import augmentation
from pipeline.data.augmentation import (
    cutmix,
    draw,
    draw_cutmix,
    draw_mixup,
    draw_round,
    mix,
    mixup,
    randaugmented,
    resized_crop,
)
from pipeline.records import Hyperparameters


def hyper(augmentation="minimal", m=9, n=2, **more):
    return Hyperparameters(
        lr=1e-3,
        weight_decay=0.1,
        epochs=1,
        batch_size=8,
        label_smoothing=0.0,
        mixup=more.pop("mixup", 0.0),
        augmentation=augmentation,
        randaugment_m=m,
        randaugment_n=n if augmentation in ("randaugment", "strong") else 0,
        seed=0,
        **more,
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def augment(images, hyper, generator):
    return augmentation.augment(images, hyper, draw(images.shape, hyper, generator))


def photos(batch=4, size=24):
    """Smooth images with colours, as photos are."""
    small = torch.randint(0, 256, (batch, 3, 4, 4), generator=seeded(7), dtype=torch.uint8)
    return v2.functional.resize(small, [size, size])


def same_photo(batch, size=24):
    return photos(1, size).expand(batch, -1, -1, -1).clone()


@pytest.mark.parametrize("augmentation", ["minimal", "medium", "randaugment"])
def test_form_is_kept_seed_decides_and_input_stays(augmentation):
    images = photos(16)
    before = images.clone()
    first = augment(images, hyper(augmentation), seeded(1))
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(first, augment(images, hyper(augmentation), seeded(1)))
    assert not torch.equal(first, augment(images, hyper(augmentation), seeded(2)))


@pytest.mark.parametrize("augmentation", ["minimal", "medium", "randaugment"])
def test_each_image_of_a_batch_gets_its_own_draw(augmentation):
    result = augment(same_photo(8), hyper(augmentation), seeded())
    assert len({image.numpy().tobytes() for image in result}) == 8


def test_minimal_crops_lie_in_the_image_and_keep_90_to_100_percent_of_it():
    # Channel 0 is twice the column, channel 1 twice the row: two points of the result tell which box was cut out.
    size = 128
    ramp = 2 * torch.arange(size)
    image = torch.stack((ramp.expand(size, size), ramp[:, None].expand(size, size), torch.zeros(size, size)))
    images = image.to(torch.uint8).expand(400, -1, -1, -1)
    result = augment(images, hyper("minimal"), seeded()) / 2
    near, far = size // 4, 3 * size // 4  # away from the border, where there is nothing to interpolate with
    width = (result[:, 0, near, far] - result[:, 0, near, near]) / (far - near)
    height = (result[:, 1, far, near] - result[:, 1, near, near]) / (far - near)
    left = result[:, 0, near, near] - near * width
    top = result[:, 1, near, near] - near * height
    rounding = 2.5 / size
    area = width * height
    assert area.min() > 0.9 - rounding
    assert area.max() < 1 + rounding
    assert area.mean() == pytest.approx(0.95, abs=0.01)
    assert ((width < 1 + rounding) & (height < 1 + rounding)).all()
    for start, length in ((left, width), (top, height)):
        assert (start / size > -rounding).all()
        assert (start / size + length < 1 + rounding).all()
        assert start.std() > 1


def test_images_need_not_be_square():
    assert augment(photos(3)[:, :, :20], hyper("randaugment", n=4), seeded()).shape == (3, 3, 20, 24)


@pytest.mark.parametrize("magnitude", [0, 9, 20, 30])
def test_randaugment_draws_the_operations_of_torchvision(magnitude):
    photo = photos(1, 20)[0]
    torch.manual_seed(0)
    reference = v2.RandAugment(num_ops=1, magnitude=magnitude, interpolation=InterpolationMode.BILINEAR)
    expected = torch.stack([reference(photo) for _ in range(400)]).unique(dim=0).int()
    images = photo.expand(400, -1, -1, -1)
    drawn = randaugmented(images, magnitude, draw_round(400, (20, 20), magnitude, seeded())).unique(dim=0).int()
    # A pixel in a hundred may differ by more than one: a setting can be off by a rounding error of float32.
    same = ((drawn[:, None] - expected[None]).abs() > 1).float().mean(dim=(2, 3, 4)) < 0.01
    assert same.any(1).all()
    assert same.any(0).all()


# As torchvision has them, by a strength from -1 to 1; a sign means nothing to the last four.
TORCHVISION = [
    lambda image, strength: image,
    lambda image, strength: sheared(image, 0.3 * strength, 0),
    lambda image, strength: sheared(image, 0, 0.3 * strength),
    lambda image, strength: shifted(image, int(150 / 331 * image.shape[-1] * strength), 0),
    lambda image, strength: shifted(image, 0, int(150 / 331 * image.shape[-2] * strength)),
    lambda image, strength: F.rotate(image, 30 * strength, interpolation=InterpolationMode.BILINEAR),
    lambda image, strength: F.adjust_brightness(image, 1 + 0.9 * strength),
    lambda image, strength: F.adjust_saturation(image, 1 + 0.9 * strength),
    lambda image, strength: F.adjust_contrast(image, 1 + 0.9 * strength),
    lambda image, strength: F.adjust_sharpness(image, 1 + 0.9 * strength),
    lambda image, strength: F.posterize(image, bits=8 - round(4 * abs(strength))),
    lambda image, strength: F.solarize(image, threshold=255 * (1 - abs(strength))),
    lambda image, strength: F.autocontrast(image),
    lambda image, strength: F.equalize(image),
]


def sheared(image, across, down):
    return affine(image, shear=[math.degrees(math.atan(slope)) for slope in (across, down)])


def shifted(image, across, down):
    return affine(image, translate=[across, down])


def affine(image, translate=(0, 0), shear=(0.0, 0.0)):
    bilinear = InterpolationMode.BILINEAR
    return F.affine(image, 0.0, list(translate), 1.0, list(shear), bilinear, center=[0.0, 0.0])


@pytest.mark.parametrize("magnitude", [0, 9, 30])
def test_a_seed_stands_for_the_same_operations_as_ever(magnitude):
    # What trials of older versions drew: for a round an operation for each image, then a sign for each; after all of
    # that what is mixed.
    images, settings = photos(100), hyper("randaugment", m=magnitude, n=2, mixup=0.3, cutmix=1.0)
    draws, generator = draw(images.shape, settings, seeded(3)), seeded(3)
    assert torch.equal(draws.crop, torch.rand(4, 100, generator=generator))
    for drawn in draws.rounds:
        result = randaugmented(images, magnitude, drawn)
        operations = torch.randint(14, (100,), generator=generator).tolist()
        signs = (torch.randint(2, (100,), generator=generator) * 2 - 1).tolist()
        expected = torch.stack(
            [
                TORCHVISION[operation](image, sign * magnitude / 30)
                for image, operation, sign in zip(images, operations, signs, strict=True)
            ]
        )
        # The same here, but a processor may multiply a batch otherwise than an image.
        torch.testing.assert_close(result.int(), expected.int(), rtol=0, atol=1)
        images = result
    assert torch.equal(draws.takes_mixup, torch.rand(100, generator=generator))
    for drawn, alpha in ((draws.mixup, 0.3), (draws.cutmix, 1.0)):
        seed = int(torch.randint(2**62, (), generator=generator))
        shares = np.random.default_rng(seed).beta(alpha, alpha, size=100)
        assert torch.equal(drawn.share, torch.from_numpy(shares).float())
        assert torch.equal(drawn.other, torch.randperm(100, generator=generator))
    assert torch.equal(draws.cutmix.centre, torch.rand(2, 100, generator=generator))


def test_randaugment_without_rounds_is_minimal():
    assert torch.equal(
        augment(photos(), hyper("randaugment", n=0), seeded()), augment(photos(), hyper("minimal"), seeded())
    )


def test_mixup_mixes_images_and_targets_alike_with_a_share_per_image():
    # Image k has the value k everywhere and the target of class k, so that the targets tell what the image must be.
    batch = 2000
    values = torch.arange(batch, dtype=torch.float32)
    images = values[:, None, None, None].expand(batch, 3, 2, 2)
    mixed, targets = mixup(images, torch.eye(batch), draw_mixup(batch, 0.4, seeded()))
    assert torch.allclose(targets.sum(1), torch.ones(batch))
    assert torch.allclose(mixed[:, 0, 0, 0], targets @ values, rtol=1e-4, atol=0.1)
    shares = targets.diagonal()
    assert len(shares.unique()) > batch // 2
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # variance of Beta(a, a)
    again, _ = mixup(images, torch.eye(batch), draw_mixup(batch, 0.4, seeded()))
    assert torch.equal(mixed, again)


def test_mixup_keeps_the_types():
    mixed, targets = mixup(torch.rand(4, 3, 2, 2).to(torch.bfloat16), torch.eye(4), draw_mixup(4, 0.5, seeded()))
    assert (mixed.dtype, targets.dtype) == (torch.bfloat16, torch.float32)


def test_medium_flips_half_of_the_images():
    ramp = (torch.arange(64) * 2 + 60).to(torch.uint8).expand(400, 3, 64, 64)
    result = augment(ramp, hyper("medium"), seeded()).float()
    flipped = result[..., :8].mean(dim=(1, 2, 3)) > result[..., -8:].mean(dim=(1, 2, 3))
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.08)
    upright = augment(ramp.transpose(2, 3), hyper("medium"), seeded()).float()
    assert (upright[:, :, :8].mean(dim=(1, 2, 3)) < upright[:, :, -8:].mean(dim=(1, 2, 3))).all()


def test_medium_crops_keep_8_to_100_percent_and_sides_of_at_most_4_to_3():
    size = 128
    ramp = 2 * torch.arange(size)
    image = torch.stack((ramp.expand(size, size), ramp[:, None].expand(size, size), torch.zeros(size, size)))
    crops = (
        resized_crop(image.to(torch.uint8).expand(2000, -1, -1, -1), 0.08, torch.rand(4, 2000, generator=seeded())) / 2
    )
    near, far = size // 4, 3 * size // 4
    width = (crops[:, 0, near, far] - crops[:, 0, near, near]) / (far - near)
    height = (crops[:, 1, far, near] - crops[:, 1, near, near]) / (far - near)
    area, ratio = width * height, width / height
    assert (area.min(), area.mean(), area.max()) == pytest.approx((0.08, 0.54, 1.0), abs=0.03)
    assert (ratio.min(), ratio.max()) == pytest.approx((3 / 4, 4 / 3), abs=0.06)
    assert ((width < 1.02) & (height < 1.02)).all()


def test_medium_changes_colours_by_up_to_40_percent_each():
    grey = torch.full((500, 3, 8, 8), 100, dtype=torch.uint8)  # contrast and saturation leave a grey image as it is
    brightness = augment(grey, hyper("medium"), seeded())[:, 0, 0, 0].float() / 100
    assert brightness.min() == pytest.approx(0.6, abs=0.02)
    assert brightness.max() == pytest.approx(1.4, abs=0.02)
    assert brightness.mean() == pytest.approx(1.0, abs=0.04)


def numbered(batch=32, size=16):
    """Image k holds the value k everywhere; its target is class k."""
    values = torch.arange(batch, dtype=torch.float32)
    return values[:, None, None, None].expand(-1, 3, size, size).clone(), torch.eye(batch)


def test_cutmix_pastes_a_box_and_mixes_targets_by_its_area():
    images, targets = numbered()
    mixed, soft = cutmix(images, targets, draw_cutmix(len(images), 1.0, seeded()))
    areas = set()
    for k, (image, target) in enumerate(zip(mixed, soft, strict=True)):
        pasted = image[0] != k
        assert torch.equal(image[0], image[2])
        for value in image.unique().tolist():
            assert target[int(value)] == pytest.approx((image[0] == value).float().mean().item())
        assert target.sum() == pytest.approx(1)
        if pasted.any():
            rows, columns = pasted.any(1).nonzero()[:, 0], pasted.any(0).nonzero()[:, 0]
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # one whole box
            areas.add(pasted.sum().item())
    assert len(areas) > 8


def test_the_box_of_cutmix_has_the_drawn_share_less_what_the_border_cuts_off():
    images, _ = numbered(2000, 32)
    mixed, _ = cutmix(images, torch.ones(2000, 1), draw_cutmix(2000, 1.0, seeded()))
    kept = (mixed[:, 0] == torch.arange(2000)[:, None, None]).float().mean(dim=(1, 2))
    # A side s, s^2 ~ U(0, 1), with its centre anywhere keeps s - s^2 / 4 of its length on average, both ways.
    side = torch.rand(200_000, generator=seeded(5)).sqrt()
    assert kept.mean() == pytest.approx(1 - ((side - side**2 / 4) ** 2).mean().item(), abs=0.02)


def test_with_mixup_and_cutmix_each_image_gets_one_of_them():
    images, targets = numbered(200)
    mixed, soft = mix(images, targets, draw(images.shape, hyper(mixup=0.5, cutmix=1.0), seeded()))
    blended = torch.tensor([len(image.unique()) == 1 and image[0, 0, 0] != image[0, 0, 0].round() for image in mixed])
    assert 0.3 < blended.float().mean() < 0.6
    assert torch.allclose(soft.sum(1), torch.ones(200))


def test_without_mixup_and_cutmix_nothing_is_mixed_and_with_one_it_is_that():
    images, targets = numbered()
    assert mix(images, targets, draw(images.shape, hyper(), seeded())) == (images, targets)
    for alone, does in (({"mixup": 0.5}, mixup), ({"cutmix": 1.0}, cutmix)):
        draws = draw(images.shape, hyper(**alone), seeded())
        expected = does(images, targets, draws.mixup or draws.cutmix)
        assert not torch.equal(expected[0], images)
        for one, other in zip(mix(images, targets, draws), expected, strict=True):
            assert torch.equal(one, other)
