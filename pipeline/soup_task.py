"""The Ray task that builds soups: one GPU if there is one, ingredients from the registry alone."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import torch
from torch import Tensor, nn

from pipeline.errors import SoupError
from pipeline.evaluation import Evaluated, evaluate_soup, recalibration
from pipeline.records import CoefficientRecord, LineageRecord, PredictionRecord, SoupIngredient, SoupRecord
from pipeline.registry import IngredientVersion, Sweep, fetch_ingredients, list_ingredients, register_soup
from pipeline.soups import METHODS, IngredientSet, Soup, SoupInputs

if TYPE_CHECKING:
    from pipeline.data import Splits


@dataclass(frozen=True)
class SoupRequest:
    """A soup to build: ``method`` over the finished trials ``trial_indices``, whose sweep cost ``gpu_hours``."""

    method: str
    trial_indices: tuple[int, ...]
    gpu_hours: float


@dataclass(frozen=True)
class SoupContext:
    """What the soups of a run share.

    ``splits`` refers to the images in Ray's object store. ``val_accuracies`` are those of the trials on `fit`.
    ``save`` writes (state, path, metadata) as safetensors; ``register`` tells whether soups become model versions.
    """

    sweep: Sweep
    splits: ray.ObjectRef
    build_model: Callable[[], nn.Module]
    save: Callable[[Mapping[str, Tensor], Path, Mapping[str, str]], str]
    val_accuracies: Mapping[int, float]
    settings: Mapping[str, Mapping[str, Any]]
    include_initialization: bool
    seed: int
    device: str
    register: bool


def soup_key(context: SoupContext, request: SoupRequest, sha256s: Mapping[int, str | None]) -> str:
    """A hash of what decides how the soup comes out; ``sha256s`` are those of the trials' checkpoints."""
    settings = context.settings.get(request.method, {})
    ingredients = [sha256s[index] for index in request.trial_indices]
    parts = [request.method, settings, ingredients, context.include_initialization, context.seed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class SoupResult:
    """A built soup as records. ``run_id`` is its MLflow run (None if not registered); weights are in the registry."""

    record: SoupRecord
    coefficients: list[CoefficientRecord]
    predictions: list[PredictionRecord]
    run_id: str | None
    is_model: bool


def build_soups(context: SoupContext, requests: Sequence[SoupRequest], cpus: int) -> Iterator[SoupResult]:
    """Run ``requests`` one after the other in one Ray task; yields each result as it comes.

    The task gets a GPU if ``context.device`` is ``cuda``, else ``cpus`` cores. Raises the task's own PipelineError.
    """
    resources: dict[str, float] = {"num_gpus": 1, "num_cpus": 1} if context.device == "cuda" else {"num_cpus": cpus}
    task = ray.remote(_build_soups).options(num_returns="streaming", max_retries=0, **resources)
    try:
        for reference in task.remote(context, tuple(requests), cpus):
            yield ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from error


def _build_soups(context: SoupContext, requests: Sequence[SoupRequest], cpus: int) -> Iterator[SoupResult]:
    torch.set_num_threads(cpus)
    splits: Splits = ray.get(context.splits)
    with tempfile.TemporaryDirectory() as folder:
        versions = list_ingredients(context.sweep)
        wanted = sorted({index for request in requests for index in request.trial_indices})
        by_trial = {version.trial_index: version for version in versions}
        if lost := [f"trial {index}" for index in wanted if index not in by_trial]:
            raise SoupError(
                f"the registry has no ingredient of {', '.join(lost)} of this sweep; start over with --fresh"
            )
        paths = fetch_ingredients([by_trial[index] for index in [*wanted, None]], Path(folder))
        theta0 = IngredientSet.open(paths[-1:]).state_dict(0)
        everything = IngredientSet.open(paths if context.include_initialization else paths[:-1])
        for request in requests:
            rows = [wanted.index(index) for index in request.trial_indices]
            rows += [len(wanted)] if context.include_initialization else []
            used = [by_trial[index] for index in [*wanted, None]]
            yield _build_one(
                context, request, everything.subset(rows), [used[row] for row in rows], theta0, splits, Path(folder)
            )


def _build_one(
    context: SoupContext,
    request: SoupRequest,
    ingredients: IngredientSet,
    versions: Sequence[IngredientVersion],
    theta0: Mapping[str, Tensor],
    splits: Splits,
    folder: Path,
) -> SoupResult:
    accuracies = [context.val_accuracies[index] for index in request.trial_indices]
    inputs = SoupInputs(
        model=context.build_model().to(context.device),
        ingredients=ingredients,
        fit=splits.fit.tensors(),
        accuracies=None if context.include_initialization else accuracies,
        device=context.device,
        seed=context.seed,
        recalibrate=recalibration(splits, context.device),
        theta0=theta0,
    )
    method = METHODS[request.method]
    soup = method(inputs, method.settings(context.settings.get(request.method, {})))
    evaluated = evaluate_soup(soup, inputs, splits)
    record = SoupRecord(
        method=request.method,
        num_ingredients=len(ingredients),
        num_selected=len(soup.selected),
        val_accuracy=evaluated["fit"].accuracy or 0.0,
        select_accuracy=evaluated["select"].accuracy,
        test_accuracy=evaluated["test"].accuracy or 0.0,
        gpu_hours=request.gpu_hours,
        construction_seconds=soup.seconds,
        epochs=soup.epochs,
        peak_memory_bytes=soup.peak_memory_bytes,
        peak_memory_kind=soup.peak_memory_kind,
    )
    run_id = _register(context, record, soup, versions, folder) if context.register else None
    return SoupResult(
        record=record,
        coefficients=_coefficients(soup, request),
        predictions=_predictions(evaluated) if context.register else [],
        run_id=run_id,
        is_model=soup.state_dict is not None,
    )


def _predictions(evaluated: Mapping[str, Evaluated]) -> list[PredictionRecord]:
    return [
        PredictionRecord.model_validate({"split": name, "image_index": image, "label": label, "prediction": prediction})
        for name, split in evaluated.items()
        for image, (label, prediction) in enumerate(zip(split.labels, split.predictions, strict=True))
    ]


def _coefficients(soup: Soup, request: SoupRequest) -> list[CoefficientRecord]:
    """Of a constructed soup; theta0, where it is an ingredient, has the trial index -1."""
    if soup.state_dict is None:
        return []
    return [
        CoefficientRecord(trial_index=index, layer=layer, coefficient=coefficient)
        for index, row in zip((*request.trial_indices, -1), soup.coefficients.tolist(), strict=False)
        for layer, coefficient in zip(soup.layers, row, strict=True)
    ]


def _register(
    context: SoupContext, record: SoupRecord, soup: Soup, versions: Sequence[IngredientVersion], folder: Path
) -> str:
    lineage = LineageRecord(
        method=record.method,
        settings=dict(context.settings.get(record.method, {})),
        seed=context.seed,
        learned_on=context.sweep.origin["split_fit"],
        layers=list(soup.layers),
        ingredients=[
            SoupIngredient(
                model_version=version.version, trial_index=version.trial_index, sha256=version.sha256, coefficients=row
            )
            for version, row in zip(versions, soup.coefficients.tolist(), strict=True)
        ],
    )
    if soup.state_dict is None:
        return register_soup(context.sweep, record, lineage, None)
    path = folder / record.method / "model.safetensors"
    context.save(soup.state_dict, path, {"method": record.method, "sweep_id": context.sweep.sweep_id})
    return register_soup(context.sweep, record, lineage, path)
