import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from pipeline.data.augmentation import _randaugment_round, augment, mixup
from pipeline.records import Hyperparameters


def hyper(augmentation, m=9, n=2):
    return Hyperparameters(
        lr=1e-3,
        weight_decay=0.1,
        epochs=1,
        batch_size=8,
        label_smoothing=0.0,
        mixup=0.0,
        augmentation=augmentation,
        randaugment_m=m,
        randaugment_n=n,
        seed=0,
    )


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(batch=4, size=24):
    """Smooth images with colours, as photos are."""
    small = torch.randint(0, 256, (batch, 3, 4, 4), generator=seeded(7), dtype=torch.uint8)
    return v2.functional.resize(small, [size, size])


def same_photo(batch, size=24):
    return photos(1, size).expand(batch, -1, -1, -1).clone()


@pytest.mark.parametrize("augmentation", ["minimal", "randaugment"])
def test_form_is_kept_seed_decides_and_input_stays(augmentation):
    images = photos(16)
    before = images.clone()
    first = augment(images, hyper(augmentation), seeded(1))
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(first, augment(images, hyper(augmentation), seeded(1)))
    assert not torch.equal(first, augment(images, hyper(augmentation), seeded(2)))


@pytest.mark.parametrize("augmentation", ["minimal", "randaugment"])
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
