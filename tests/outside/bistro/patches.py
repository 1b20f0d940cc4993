"""A backbone: one convolution over patches, its mean. Shipped with a served soup, so it imports nothing at the top."""

import torch
from torch import nn

REQUIREMENTS = ()  # nothing beside torch


class Patches(nn.Module):
    """Images (B, 3, S, S) to features (B, width)."""

    def __init__(self, width):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 4, stride=2)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, images):
        return torch.relu(self.norm(self.patch(images))).mean(dim=(2, 3))


def build(architecture, head_name):
    return Patches(**architecture)


def load(config, *, pretrained, local):
    from pipeline.models import Backbone
    from pipeline.weights import load_weights

    width = (config.architecture or {}).get("width", 16)
    tower = build({"width": width}, None)
    if local is not None:
        load_weights(tower, local, source=str(config.pretrained))
    constants = {"mean": config.mean or (0.5, 0.5, 0.5), "std": config.std or (0.5, 0.5, 0.5)}
    return Backbone(
        tower, feature_dim=width, normalize_features=False, constants=constants, architecture={"width": width}
    )


def export(model, description, folder):
    from pipeline.weights import save_weights

    save_weights(model.state_dict(), folder / "patches.safetensors", {})
    return (
        f"tower, head = Patches({description.architecture['width']}), torch.nn.Linear(...)\n"
        "state = load_file('{folder}/patches.safetensors')"
    )
