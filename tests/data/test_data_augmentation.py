import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from pipeline.data.augmentation import _randaugment_round, _random_resized_crop, augment, cutmix, mix, mixup
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
    drawn = _randaugment_round(photo.expand(400, -1, -1, -1), magnitude, seeded()).unique(dim=0).int()
    # A pixel in a hundred may differ by more than one: a setting can be off by a rounding error of float32.
    same = ((drawn[:, None] - expected[None]).abs() > 1).float().mean(dim=(2, 3, 4)) < 0.01
    assert same.any(1).all()
    assert same.any(0).all()


def test_randaugment_without_rounds_is_minimal():
    assert torch.equal(
        augment(photos(), hyper("randaugment", n=0), seeded()), augment(photos(), hyper("minimal"), seeded())
    )


def test_mixup_mixes_images_and_targets_alike_with_a_share_per_image():
    # Image k has the value k everywhere and the target of class k, so that the targets tell what the image must be.
    batch = 2000
    values = torch.arange(batch, dtype=torch.float32)
    images = values[:, None, None, None].expand(batch, 3, 2, 2)
    mixed, targets = mixup(images, torch.eye(batch), 0.4, seeded())
    assert torch.allclose(targets.sum(1), torch.ones(batch))
    assert torch.allclose(mixed[:, 0, 0, 0], targets @ values, rtol=1e-4, atol=0.1)
    shares = targets.diagonal()
    assert len(shares.unique()) > batch // 2
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # variance of Beta(a, a)
    again, _ = mixup(images, torch.eye(batch), 0.4, seeded())
    assert torch.equal(mixed, again)


def test_mixup_with_alpha_zero_returns_its_inputs():
    images, targets = torch.rand(4, 3, 2, 2), torch.eye(4)
    mixed = mixup(images, targets, 0.0, seeded())
    assert mixed[0] is images
    assert mixed[1] is targets


def test_mixup_keeps_the_types():
    mixed, targets = mixup(torch.rand(4, 3, 2, 2).to(torch.bfloat16), torch.eye(4), 0.5, seeded())
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
    crops = _random_resized_crop(image.to(torch.uint8).expand(2000, -1, -1, -1), 0.08, seeded()) / 2
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
    mixed, soft = cutmix(images, targets, 1.0, seeded())
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
    assert cutmix(images, targets, 0, seeded()) == (images, targets)


def test_the_box_of_cutmix_has_the_drawn_share_less_what_the_border_cuts_off():
    images, _ = numbered(2000, 32)
    mixed, _ = cutmix(images, torch.ones(2000, 1), 1.0, seeded())
    kept = (mixed[:, 0] == torch.arange(2000)[:, None, None]).float().mean(dim=(1, 2))
    # A side s, s^2 ~ U(0, 1), with its centre anywhere keeps s - s^2 / 4 of its length on average, both ways.
    side = torch.rand(200_000, generator=seeded(5)).sqrt()
    assert kept.mean() == pytest.approx(1 - ((side - side**2 / 4) ** 2).mean().item(), abs=0.02)


def test_with_mixup_and_cutmix_each_image_gets_one_of_them():
    images, targets = numbered(200)
    mixed, soft = mix(images, targets, hyper(mixup=0.5, cutmix=1.0), seeded())
    blended = torch.tensor([len(image.unique()) == 1 and image[0, 0, 0] != image[0, 0, 0].round() for image in mixed])
    assert 0.3 < blended.float().mean() < 0.6
    assert torch.allclose(soft.sum(1), torch.ones(200))
    assert torch.equal(mix(images, targets, hyper(), seeded())[0], images)
