"""Images per second: scoring weights, and fine-tuning."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from vision_transformers import build, normalised, pixels

from gpu.lines import Line, Scale, at_least, at_most
from gpu.processes import finish
from pipeline.soups import accuracy_scorer

if TYPE_CHECKING:  # they need pydantic, which a machine may lack
    from pipeline.config import SearchConfig
    from pipeline.data import Splits
    from pipeline.records import EpochRecord, Hyperparameters

CLASSES = 1000


class OnBytes(nn.Module):
    """A network that takes images as they are kept, uint8, and as training hands them in, floats in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images if images.is_floating_point() else images.float() / 255)


def small() -> nn.Module:
    """A vision transformer as that of the evidence study: 32 pixels, six layers of width 192."""
    return VisionTransformer(32, 4, 6, 3, 192, 768, num_classes=CLASSES)


def large() -> nn.Module:
    """ViT-B/32."""
    return build("b")


def least() -> nn.Module:
    """The smallest that there is, for tests."""
    return build("xs")


# Transformers with the pixels of a side; images to score; images to train on in an epoch, and in a batch.
SIZES: dict[Scale, tuple[dict[str, tuple[Callable[[], nn.Module], int]], int, int, int]] = {
    "full": ({"a small transformer": (small, 32), "ViT-B/32": (large, 224)}, 8192, 8192, 512),
    "quick": ({"a small transformer": (small, 32), "ViT-B/32": (large, 224)}, 2048, 2048, 512),
    "tiny": ({"the least transformer": (least, 224)}, 8, 8, 4),
}
DATA_WAIT = 0.05  # of an epoch


def scoring(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """Passes of `AccuracyScorer` over images that are on the device."""
    count = SIZES[scale][1]
    model, (images, labels) = build("xs" if scale == "tiny" else "b").eval(), pixels(count)
    score = accuracy_scorer(model.to(device), (images, labels), device=device, preprocess=normalised)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    score(weights)
    finish(device)
    start = time.perf_counter()
    for _ in range(3):
        score(weights)
    finish(device)
    seconds = time.perf_counter() - start
    yield at_least("scoring, ViT-B/32", 3 * count / seconds, None, "images/s")


def fine_tuning(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """The last of three epochs of `finetune`, with everything that its augmentation can do."""
    from pipeline.finetune import finetune

    models, _, count, batch = SIZES[scale]
    for name, (make, side) in models.items():
        epochs: list[EpochRecord] = []
        finetune(
            OnBytes(make()), drawn_splits(count, side), strong(batch, epochs=3), search_settings(), device=device,
            on_epoch=lambda epoch, state, epochs=epochs: epochs.append(epoch),
        )  # fmt: skip
        what = f"fine-tuning {name}, batch {batch}"
        yield at_least(what, epochs[-1].images_per_second, None, "images/s")
        yield at_most(f"{what}: wait for images", epochs[-1].data_wait, DATA_WAIT, "of an epoch")


def drawn_splits(count: int, side: int, classes: int = CLASSES) -> Splits:
    """Random images to train on, and a few for each of the other splits."""
    from pipeline.data import ExampleSet, Splits

    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(count, 3, side, side), dtype=np.uint8)
    train = ExampleSet(images, generator.integers(classes, size=count))
    few = ExampleSet(train.inputs[:8], train.labels[:8])
    return Splits(None, train, few, few, few, tuple(map(str, range(classes))), ())


def strong(batch: int, epochs: int = 2) -> Hyperparameters:
    """Hyperparameters that draw whatever a trial can draw."""
    from pipeline.records import Hyperparameters

    return Hyperparameters(
        lr=1e-3, weight_decay=0.01, epochs=epochs, batch_size=batch, label_smoothing=0.1, mixup=0.2, cutmix=1.0,
        augmentation="randaugment", randaugment_m=15, randaugment_n=2, ema_decay=0.99, seed=5,
    )  # fmt: skip


def search_settings() -> SearchConfig:
    """The defaults."""
    from pipeline.config import SearchConfig

    return SearchConfig.model_construct()
