"""MEHL-Soup and MEHL-Soup+: coefficients on a hyperplane, learned a block of models at a time (Algorithm 1)."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from pipeline.precision import Precision
from pipeline.soups.budget import BlockPlan, plan_within_budget
from pipeline.soups.checkpoint import Progress, load_progress, save_progress
from pipeline.soups.descent import Descent, DescentSettings
from pipeline.soups.fit_data import Fit, FitData, Preprocess
from pipeline.soups.hyperplane import Hyperplane
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.layers import LAYER_KINDS, LayerKind
from pipeline.soups.measure import measured
from pipeline.soups.packed import DELTA_DTYPES, DeltaDtype, storage_type
from pipeline.soups.rebuild import soup_from_coefficients
from pipeline.soups.seeding import seeded
from pipeline.soups.settings import Check
from pipeline.soups.soup import Soup, costed, nonzero_rows
from pipeline.soups.workbench import borrowed

log = logging.getLogger("pipeline.soups")

_BLOCKS_STREAM, _DATA_STREAM = 0, 1


@dataclass(frozen=True)
class MehlSettings(DescentSettings):
    """Settings of mehl, mehl-plus, hl and hl-plus; problems raise one ValueError."""

    block_size: int | Literal["auto"] | None = 18
    """Models in memory at a time, b (18 as for ViT-B/32 in the paper); ``auto``: as the budget allows; none: all K."""

    outer_iterations: int | None = None
    """Blocks that are trained, T; none: ceil(K / b), every model once."""

    warmup: float = 0.0
    """Part of a block's steps over which the learning rate rises; the released code has 0.2."""

    layers: LayerKind = "tensor"
    """What shares a coefficient: ``tensor`` (MEHL-Soup+), ``module`` or ``model`` (MEHL-Soup)."""

    decentralize: bool = True
    """Directions from the centre (Eq. 3); without, plain sums that start there and may leave one (App. D). Weight decay
    draws to the start either way, so that this alone differs (the paper does not say what its ablation decayed to)."""

    direction_scale: Literal["none", "unit"] = "none"
    """``unit`` divides each direction by its norm within each layer, as the released code does."""

    delta_dtype: DeltaDtype | None = None
    """Type in which directions are kept: float32, bfloat16 or int8; none: as the ingredients are stored."""

    memory_budget_gib: float | None = None
    """Bound of the peak memory: chooses ``block_size`` where ``auto``, ``delta_dtype`` and ``micro_batch_size`` where
    none, or refuses. On CUDA its context counts, and the images stay on the host but for the batch at work."""

    def __post_init__(self) -> None:
        check = Check(self)
        check.integer("block_size", at_least=1, also=("auto", None))
        check.integer("outer_iterations", at_least=1, also=(None,))
        self.check(check)
        check.number("warmup", low=0, high=1)
        check.one_of("layers", LAYER_KINDS)
        check.boolean("decentralize")
        check.one_of("direction_scale", ("none", "unit"))
        check.one_of("delta_dtype", (None, *DELTA_DTYPES))
        check.number("memory_budget_gib", low=0, open_low=True, optional=True)
        if self.block_size == "auto" and self.memory_budget_gib is None:
            check.refuse("block_size", "auto only with a memory_budget_gib, else a whole number from 1 on, none")
        check.done()


def mehl_soup(
    model: nn.Module,
    ingredients: IngredientSet,
    fit: Fit,
    settings: MehlSettings | None = None,
    *,
    device: str = "cpu",
    seed: int = 0,
    preprocess: Preprocess | None = None,
    centre: Sequence[float] | None = None,
    checkpoint: Path | None = None,
    recalibrate: Callable[[nn.Module], None] | None = None,
    precision: Precision | None = None,
) -> Soup:
    """Learn one coefficient per ingredient and layer by block coordinate descent on the fit images.

    Algorithm 1 of the MEHL-Soup paper. Memory holds the directions of one block and one graph, whatever K. Same seed,
    same result.

    Args:
        model: The architecture, in float32 or float64; keeps its mode, flags and device, not its weights.
        ingredients: K fine-tuned models.
        fit: Images (n, ...) and labels (n,): two tensors, or a re-iterable of batches of both.
        settings: None for the defaults, MEHL-Soup+ with blocks of 18.
        device: Where to compute.
        seed: Of the blocks and the order of the images.
        preprocess: Maps a batch of images on the device to the model's input.
        centre: Coefficients (K) of a soup to start from and to measure directions from, in place of the mean of Eq. 3.
        checkpoint: A file that is written after every block, continued from if it belongs to the same soup, and removed
            in the end.
        recalibrate: Sets the BatchNorm statistics of the model that it gets, at the start of every block. In the soup
            returned they are mixed like weights (`recalibrated` renews them, and METHODS does).
        precision: Arithmetic where the settings give none; None: bfloat16 on CUDA, else the model's own type.

    Returns:
        A soup whose coefficients refer to the ingredients (Eq. 4) and sum to one in each layer (not without
        ``decentralize``); its weights are rebuilt from them. ``history`` is the loss of every step. After a kill,
        ``seconds`` and ``peak_memory_bytes`` count the blocks that earlier attempts finished.

    Raises:
        SoupError: Model, ingredients and fit images do not fit each other, or not into ``memory_budget_gib``.
    """
    settings = settings or MehlSettings()
    # Under a budget the images leave the device first.
    data = FitData(fit, device, preprocess, on_host=settings.memory_budget_gib is not None)
    epoch = data.steps_per_epoch(settings.batch_size)
    descent = settings.descent(epoch, precision, settings.warmup)
    history: list[float] = []
    with measured(device) as cost, borrowed(model, device):
        plane = Hyperplane(
            model,
            ingredients,
            settings.layers,
            centre=centre,
            centred=settings.decentralize,
            recalibrate=recalibrate,
        )
        identity = _identity(replace(settings, precision=descent.precision), seed, ingredients, data, centre)
        earlier = load_progress(checkpoint, identity) if checkpoint else None
        plan = _plan(settings, plane, data, descent, earlier)
        descent = replace(descent, micro_batch_size=plan.micro_batch_size)
        blocks = draw_blocks(len(ingredients), plan.block_size, settings.outer_iterations, seed)
        if earlier is not None:
            log.info("going on after block %d of %d from %s", earlier.blocks_done, len(blocks), checkpoint)
            plane.resume(earlier.alpha, earlier.soup)
            cost.add_earlier(earlier.seconds, earlier.peak_memory_bytes, earlier.peak_reserved_bytes)
            history += earlier.losses
        for t in range(earlier.blocks_done if earlier else 0, len(blocks) if plane.mixed else 0):
            plane.renew_statistics()
            with closing(data.shuffled(settings.batch_size, seeded(seed, _DATA_STREAM, t))) as batches:
                # Directions live within this call alone: two blocks are never in memory.
                losses = plane.train_block(
                    blocks[t],
                    batches,
                    descent,
                    dtype=storage_type(plan.delta_dtype),
                    unit=settings.direction_scale == "unit",
                    read_ahead=blocks[t + 1] if t + 1 < len(blocks) else (),
                )
            history += losses
            log.info(
                "block %d of %d (%d models): loss %.4f -> %.4f",
                t + 1,
                len(blocks),
                len(blocks[t]),
                losses[0],
                losses[-1],
            )
            if checkpoint is not None:
                cost.update()
                progress = Progress(
                    blocks_done=t + 1,
                    alpha=plane.alpha,
                    losses=tuple(history),
                    soup=plane.mixed,
                    block_size=plan.block_size,
                    delta_dtype=plan.delta_dtype,
                    micro_batch_size=plan.micro_batch_size,
                    seconds=cost.seconds,
                    peak_memory_bytes=cost.peak_memory_bytes,
                    peak_reserved_bytes=cost.peak_reserved_bytes,
                )
                save_progress(checkpoint, identity, progress)
        coefficients = plane.coefficients()
        weights = soup_from_coefficients(ingredients, coefficients, plane.layers, device=device)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    soup = Soup(
        "mehl" if settings.layers == "model" else "mehl-plus",
        weights,
        coefficients,
        plane.layers,
        nonzero_rows(coefficients),
        blocks=blocks,
        history=tuple(history),
        epochs=len(history) / epoch,
    )
    return costed(soup, cost)


def draw_blocks(count: int, size: int, outer_iterations: int | None, seed: int) -> tuple[tuple[int, ...], ...]:
    """T blocks of at most ``size`` models: seeded permutations of all, cut into pieces, anew for every pass."""
    generator = seeded(seed, _BLOCKS_STREAM)
    total = math.ceil(count / size) if outer_iterations is None else outer_iterations
    blocks: list[tuple[int, ...]] = []
    while len(blocks) < total:
        order = torch.randperm(count, generator=generator).tolist()
        blocks += [tuple(order[start : start + size]) for start in range(0, count, size)]
    return tuple(blocks[:total])


def _plan(
    settings: MehlSettings, plane: Hyperplane, data: FitData, descent: Descent, earlier: Progress | None
) -> BlockPlan:
    """How large a block is, how it is stored and how batches are cut: as set, as the budget allows, or as before."""
    if earlier is not None:  # another version may plan otherwise; the blocks of a soup must not change
        return BlockPlan(earlier.block_size, earlier.delta_dtype, earlier.micro_batch_size)
    count = len(plane.ingredients)
    size = count if settings.block_size is None else settings.block_size
    if settings.memory_budget_gib is None or not plane.mixed:
        block_size = count if isinstance(size, str) else min(size, count)
        return BlockPlan(block_size, settings.delta_dtype, settings.micro_batch_size)
    batch = next(data.ordered(settings.batch_size))
    return plan_within_budget(settings.memory_budget_gib, size, settings.delta_dtype, plane, batch, descent)


def _identity(
    settings: MehlSettings, seed: int, ingredients: IngredientSet, data: FitData, centre: Sequence[float] | None
) -> str:
    """What decides how the soup comes out: progress of another one must not be gone on with."""
    return json.dumps([asdict(settings), seed, ingredients.fingerprint, data.num_images, centre])
