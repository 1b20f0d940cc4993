"""A backbone as somebody brings it who uses the package and does not change it: tests copy this file elsewhere."""

from __future__ import annotations

import torch
from torch import nn

REQUIREMENTS = ()


def load(config, *, pretrained, local):
    from pipeline.models import Backbone
    from pipeline.weights import load_weights

    tower = build(config.architecture, None)
    if local is not None:
        load_weights(tower, local, source=str(config.pretrained))
    width = config.architecture["width"]
    return Backbone(
        tower, width, False, {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}, dict(config.architecture)
    )


def build(architecture, head_name):
    layers = [nn.Conv2d(3, architecture["width"], 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


def export(model, description, folder):
    torch.save(model.state_dict(), folder / "mine.pt")
    return "state = torch.load('{folder}/mine.pt')  # {}"
