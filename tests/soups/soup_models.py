"""Tiny models and the files of their ingredients, shared by the tests of this folder."""

import json

import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.soups import IngredientSet


class Classifier(nn.Module):
    """Two transformer-like blocks with integers in their names, a frozen tensor and a head."""

    def __init__(self, width=6, classes=4):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.5)) for _ in range(2)
        )
        self.frozen = nn.Linear(width, width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        hidden = images.flatten(1).to(self.scale.dtype) * self.scale
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(self.frozen(hidden))


class Normed(nn.Module):
    """BatchNorm: running statistics and an integer counter."""

    def __init__(self, width=6, classes=4):
        super().__init__()
        self.body = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(torch.relu(self.norm(self.body(images))))


def fine_tuned(model, count, *, seed=0, spread=0.3, frozen=("frozen",)):
    """``count`` state dicts around the model's weights; tensors under the ``frozen`` prefixes are the same in all."""
    generator = torch.Generator().manual_seed(seed)
    states = []
    for k in range(count):
        state = {}
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                state[name] = tensor + k
            elif name.startswith(tuple(frozen)):
                state[name] = tensor.clone()
            else:
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype)
                state[name] = tensor + spread * (noise.abs() if name.endswith("running_var") else noise)
        states.append(state)
    return states


def save(folder, states, *, theta0="t0", classes=("a", "b", "c", "d")):
    """Write ingredients as the pipeline does; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, state in enumerate(states):
        metadata = {"theta0_sha256": theta0, "class_names": json.dumps(list(classes)), "trial_index": str(k)}
        paths.append(folder / f"{k}.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, paths[-1], metadata=metadata)
    return paths


def opened(folder, model, count, **options):
    """An open set of ``count`` ingredients around the model."""
    return IngredientSet.open(save(folder, fine_tuned(model, count, **options)))


def fit_images(size=40, width=6, classes=4, seed=1, dtype=torch.float32):
    """Images drawn around one centre per class, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    centres = torch.randn(classes, width, generator=generator)
    return (centres[labels] + 0.5 * torch.randn(size, width, generator=generator)).to(dtype), labels
