"""Random-weight vision transformers by size, and folders of ingredients made of them."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer

SIZES = {  # layers, heads, width; B is ViT-B/32 with 88 M parameters, XS is for tests
    "xs": (1, 2, 16),
    "ti": (12, 3, 192),
    "s": (12, 6, 384),
    "b": (12, 12, 768),
}


def build(size: str) -> nn.Module:
    """A ViT of patch 32 on 224 pixels with 1,000 classes."""
    layers, heads, width = SIZES[size]
    torch.manual_seed(0)
    model = VisionTransformer(224, 32, layers, heads, width, 4 * width, num_classes=1000)
    nn.init.normal_(model.heads.head.weight, std=0.02)  # torchvision starts it at zero, where all classes tie
    return model


def images(count: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 3, 224, 224, generator=generator)
    return pixels.to(device), torch.randint(1000, (count,), generator=generator).to(device)


def pixels(count: int) -> tuple[Tensor, Tensor]:
    """Random images as they are kept, uint8 on the CPU, and labels."""
    generator = np.random.default_rng(1)
    images = generator.integers(256, size=(count, 3, 224, 224), dtype=np.uint8)
    return torch.from_numpy(images), torch.from_numpy(generator.integers(1000, size=count))


def normalised(images: Tensor) -> Tensor:
    """Kept images as the model takes them."""
    return (images.float() / 255 - 0.5) / 0.25


def write_ingredients(folder: Path, model: nn.Module, count: int, device: str = "cpu") -> list[Path]:
    """``count`` float32 files around the model's weights, one model in memory at a time; those already there are kept.

    Their noise is drawn on ``device``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k in range(count):
        paths.append(folder / f"{k}.safetensors")
        if not paths[-1].exists():
            generator = torch.Generator(device).manual_seed(k)
            spread = 1e-3 if k % 4 else 1e-5  # a quarter is near and joins a greedy soup, the others ruin it
            state = {
                name: (tensor.to(device) + spread * torch.randn(tensor.shape, generator=generator, device=device)).cpu()
                for name, tensor in model.state_dict().items()
            }
            partial = paths[-1].with_suffix(".partial")
            save_file(state, partial, metadata={"theta0_sha256": "random"})
            partial.rename(paths[-1])
    return paths
