"""Small models, their images, and files of ingredients around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from pipeline.soups import IngredientSet

CLASSES = 4
Images = tuple[Tensor, Tensor]


def transformer() -> nn.Module:
    """A vision transformer on 8 pixels, two layers."""
    torch.manual_seed(0)
    return VisionTransformer(8, 4, 2, 2, 32, 64, num_classes=CLASSES)


def convolutions() -> nn.Module:
    """A network with BatchNorm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"transformer": transformer, "convolutions": convolutions}


def images(count: int, noise: float = 6) -> Images:
    """Images (count, 3, 8, 8) around one centre per class, with so much noise that a model gets some wrong."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    centres = torch.randn(CLASSES, 3, 8, 8, generator=generator)
    return centres[labels] + noise * torch.randn(count, 3, 8, 8, generator=generator), labels


def trained(model: nn.Module, fit: Images, steps: int = 40) -> nn.Module:
    """The model after a few steps on the CPU: the starting point of the ingredients."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(fit[0]), fit[1]).backward()
        optimizer.step()
    return model.eval()


def ingredients_around(model: nn.Module, folder: Path, count: int, spread: float = 0.2) -> IngredientSet:
    """Ingredients that differ from the model by noise, relative to how large each tensor's entries are."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, paths = torch.Generator().manual_seed(2), []
    learned = dict(model.named_parameters())
    for k in range(count):
        state = {}
        for name, tensor in model.state_dict().items():
            state[name] = tensor.clone()
            if name in learned:
                scale = spread * (1 + k) / count * tensor.square().mean().sqrt()
                state[name] += scale * torch.randn(tensor.shape, generator=generator)
        paths.append(folder / f"{k}.safetensors")
        save_file(state, paths[-1], metadata={"theta0_sha256": "sample"})
    return IngredientSet.open(paths)


def renewing(pixels: Tensor) -> Callable[[nn.Module], None]:
    """Sets BatchNorm statistics to those of these images, as the soup library asks for it."""

    @torch.no_grad()
    def renew(model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a mean over all that it sees
        model.train()
        model(pixels.to(next(model.parameters()).device))

    return renew
