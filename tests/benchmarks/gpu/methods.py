"""Every method of `METHODS` on the GPU against the CPU, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from gpu import samples
from gpu.lines import Line, Scale, holds
from pipeline.soups import METHODS, Method, Soup, SoupInputs, accuracy_scorer

# Ingredients, images, steps in a block.
SIZES: dict[Scale, tuple[int, int, int]] = {"full": (7, 400, 30), "quick": (5, 200, 15), "tiny": (4, 60, 3)}
# What coefficients may differ by, as a root mean square: so much of their standard deviation, and float32's rounding.
# (The largest difference tells less. AdamW steps by the learning rate whatever the length of a gradient, so that one
# near zero turns rounding into a step: noise of 2e-6 in the images moved single coefficients by 4 % of it.)
TOLERANCE, ROUNDING = 0.01, 1e-6
# Ways through the code that the defaults do not take.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "directions in bfloat16": ("mehl-plus", {"delta_dtype": "bfloat16"}),
    "directions in int8": ("mehl-plus", {"delta_dtype": "int8"}),
    "directions of unit length": ("mehl-plus", {"direction_scale": "unit"}),
    "micro-batches": ("mehl-plus", {"micro_batch_size": 7}),
    "no centre": ("mehl-plus", {"decentralize": False}),
    "sgd": ("mehl-plus", {"optimizer": "sgd", "schedule": "constant"}),
    "a graph over all ingredients": ("learned-plus", {"memory": "released"}),
}


def against_cpu(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """Coefficients, and the accuracy of what they make, of small models."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    count, num_images, steps = SIZES[scale]
    for kind, build in samples.MODELS.items():
        fit = samples.images(num_images)
        model = samples.trained(build(), fit)
        theta0 = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        inputs = {
            "model": model,
            "ingredients": samples.ingredients_around(model, folder / "methods" / kind, count),
            "fit": fit,
            "theta0": theta0,
            "recalibrate": samples.renewing(fit[0]) if kind == "convolutions" else None,
            "precision": "float32",
        }
        for name, (method, settings) in ({name: (name, {}) for name in METHODS} | VARIANTS).items():
            chosen = _settings(METHODS[method], settings, steps)
            soups = [METHODS[method](SoupInputs(**inputs, device=each), chosen) for each in ("cpu", device)]
            what = f"{method} of {kind}" + (f", {name}" if name != method else "")
            yield _compared(what, inputs, *soups)


def _settings(method: Method, settings: dict[str, Any], steps: int) -> Any:
    """The defaults in float32, of few steps and small blocks, with what a variant changes."""
    small = {"inner_iterations": steps, "batch_size": 16}
    if method.name.startswith("mehl"):
        small["block_size"] = 2
    return method.settings({name: value for name, value in small.items() if hasattr(method.defaults, name)} | settings)


def _compared(what: str, inputs: dict[str, Any], on_cpu: Soup, on_device: Soup) -> Line:
    difference = float((on_cpu.coefficients - on_device.coefficients).square().mean().sqrt())
    spread = float(on_cpu.coefficients.std())
    measured = f"coefficients differ by {difference:.1e}, spread {spread:.1e}"
    agree = (
        difference <= TOLERANCE * spread + ROUNDING
        and on_cpu.selected == on_device.selected
        and on_cpu.blocks == on_device.blocks
    )
    if on_cpu.state_dict is not None and on_device.state_dict is not None:
        score = accuracy_scorer(inputs["model"], inputs["fit"])
        accuracies = [score(soup.state_dict) or 0.0 for soup in (on_cpu, on_device)]
        measured += f", accuracy {accuracies[0]:.3f} and {accuracies[1]:.3f}"
        agree &= abs(accuracies[0] - accuracies[1]) <= 1.5 / len(inputs["fit"][1])
    return holds(what, agree, measured, f"CPU's: {TOLERANCE:.0%} of the spread, 1 image")
