"""Same seed, same result: bit for bit in two processes, and what that costs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vision_transformers import build, images

from gpu import samples
from gpu.lines import Line, Scale, at_most, holds
from gpu.processes import in_process, run_script
from gpu.speed import OnBytes, drawn_splits, search_settings, strong
from pipeline.soups import METHODS, IngredientSet, SoupInputs

# Transformer, images in a batch, steps in a block of four of eight models; images of a trial, its batch.
SIZES: dict[Scale, tuple[str, int, int, int, int]] = {
    "full": ("s", 128, 100, 4096, 512),
    "quick": ("ti", 128, 20, 1024, 256),
    "tiny": ("xs", 4, 2, 16, 8),
}
MODELS = 8
# Networks whose training step is measured, images in a batch, rounds.
STEPS: dict[Scale, tuple[tuple[str, ...], int, int]] = {
    "full": (("b", "resnet50"), 128, 9),
    "quick": (("b", "resnet50"), 128, 3),
    "tiny": (("xs",), 2, 1),
}
COST = 1.1  # of a step's time


def same_soup(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """mehl-plus of a transformer and of convolutions with BatchNorm, in the arithmetic that is the default."""
    for kind in samples.MODELS:
        yield _twice(f"mehl-plus of {kind}", soup_digest, device, scale, folder / "repeat" / kind, kind)


def same_trial(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """A fine-tuned transformer and convolutions: RandAugment, mixup, CutMix and an average of the weights."""
    for kind in samples.MODELS:
        yield _twice(f"a trial of {kind}", trial_digest, device, scale, kind)


def cost(device: str, scale: Scale, folder: Path) -> Iterator[Line]:
    """`determinism`: a training step that repeats its result over the fastest there is."""
    networks, batch, rounds = STEPS[scale]
    for network in networks:
        found = run_script(
            "determinism", "--network", network, "--batch", batch, "--rounds", rounds, "--device", device
        )
        shown = [f"{name} {1e3 * seconds:.2f}" for name, seconds in found["seconds"].items()]
        what = f"a step of {network} that repeats its result over the fastest, batch {batch}"
        yield at_most(what, found["ratio"], COST, note=f"ms: {', '.join(shown)}")


def _twice(what: str, digest: Callable[..., str], *arguments: Any) -> Line:
    digests = [in_process(digest, *arguments)[:12] for _ in range(2)]
    return holds(f"{what}, same seed in two processes", digests[0] == digests[1], " and ".join(digests), "bit for bit")


def soup_digest(device: str, scale: Scale, folder: Path, kind: str) -> str:
    """Hash of the coefficients and weights of a soup; ingredients are written to the folder once."""
    size, batch, steps, _, _ = SIZES[scale]
    if kind == "transformer":
        model, fit = build(size), images(4 * batch)
    else:
        fit = samples.images(4 * batch)
        model = samples.trained(samples.MODELS[kind](), fit)
    paths = [folder / f"{k}.safetensors" for k in range(MODELS)]
    ready = all(path.exists() for path in paths)
    ingredients = IngredientSet.open(paths) if ready else samples.ingredients_around(model, folder, MODELS)
    settings = METHODS["mehl-plus"].settings({"block_size": 4, "inner_iterations": steps, "batch_size": batch})
    renew = samples.renewing(fit[0]) if kind == "convolutions" else None
    soup = METHODS["mehl-plus"](SoupInputs(model, ingredients, fit, device=device, seed=3, recalibrate=renew), settings)
    return digest([soup.coefficients, *(soup.state_dict or {}).values()])


def trial_digest(device: str, scale: Scale, kind: str) -> str:
    """Hash of the weights of a fine-tuned model."""
    from pipeline.finetune import finetune

    size, _, _, count, batch = SIZES[scale]
    if kind == "transformer":
        model, splits = OnBytes(build(size)), drawn_splits(count, 224)
    else:
        model, splits = OnBytes(samples.MODELS[kind]()), drawn_splits(count, 32, samples.CLASSES)
    finetune(model, splits, strong(batch), search_settings(), device=device)
    return digest(model.state_dict().values())


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of their bytes."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
