"""The Ray task that builds soups: one GPU if there is one, ingredients from the registry alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import ray
import torch
from torch import Tensor, nn

from pipeline.cluster import as_they_come, only_result, polled
from pipeline.data import KINDS
from pipeline.errors import IngredientError, RegistryError, SoupError
from pipeline.evaluation import Evaluated, evaluate_soup, figures, recalibration
from pipeline.files import scratch
from pipeline.metrics import deciding
from pipeline.models import backbone_file, backbone_module
from pipeline.precision import reproducible
from pipeline.records import (
    CoefficientRecord,
    LineageRecord,
    LossRecord,
    ModelDescription,
    PredictionRecord,
    SimilarityRecord,
    SoupIngredient,
    SoupRecord,
)
from pipeline.registry import (
    REMEDY,
    IngredientVersion,
    SoupModel,
    Sweep,
    fetch_ingredients,
    fetch_intact,
    list_ingredients,
    register_soup,
)
from pipeline.soup_requests import RecordedSoup, SimilarityRequest, SoupRequest
from pipeline.soups import (
    METHODS,
    IngredientSet,
    Method,
    Soup,
    SoupInputs,
    WiseFtSettings,
    cosine_similarities,
    nonzero_rows,
    soup_from_coefficients,
    wise_ft,
)
from pipeline.weights import save_weights

if TYPE_CHECKING:
    from pipeline.data import Splits


_TASK = "a soup task"  # in errors


@dataclass(frozen=True)
class SoupContext:
    """What the soups of a run share.

    ``splits`` refers to the images in Ray's object store. ``val_scores`` are those of the trials on `fit`.
    ``skip_damaged`` tells whether ingredients whose file is missing or was changed are left out (else they raise).
    Soups become model versions with the ``description`` of what ``build_model`` builds; without one they are not
    registered. With ``better_than`` only models are whose `SoupRecord.rank` is higher.
    ``unfinished`` is a folder in which soups keep what they go on from when their task was killed.
    """

    sweep: Sweep
    splits: ray.ObjectRef
    build_model: Callable[[], nn.Module]
    val_scores: Mapping[int, float]
    device: str
    skip_damaged: bool
    description: ModelDescription | None
    unfinished: Path
    better_than: tuple[float, float] | None = None


@dataclass(frozen=True)
class SoupResult:
    """A built soup as records. ``run_id`` is its MLflow run (None if not registered); weights are in the registry.

    ``losses`` are those of a method that learns in blocks. ``left_out`` says which ingredients were damaged.
    """

    record: SoupRecord
    coefficients: list[CoefficientRecord]
    predictions: list[PredictionRecord]
    run_id: str | None
    is_model: bool
    losses: list[LossRecord]
    left_out: tuple[str, ...] = ()


def build_soups(
    context: SoupContext, requests: Mapping[str, SoupRequest], cpus: int, tasks: int = 1
) -> Iterator[tuple[str, SoupResult]]:
    """Build the named ``requests`` in so many Ray ``tasks``; yields a name and its soup as they come.

    The names are dealt out in turn, and a task builds its soups one after the other, with ``cpus`` cores and, if
    ``context.device`` is ``cuda``, a GPU. Raises the first PipelineError of a task, and stops the others.
    """
    resources = {"num_cpus": cpus, "num_gpus": 1 if context.device == "cuda" else 0}
    shares = [list(requests)[start::tasks] for start in range(min(tasks, len(requests)))]
    calls = [(context, {name: requests[name] for name in share}, cpus) for share in shares]
    for _, named in as_they_come(_build_soups, {"max_retries": 0, **resources}, calls, SoupError, _TASK):
        if named is not None:
            yield named


def build_beside(
    context: SoupContext, requests: Mapping[str, SoupRequest], cpus: int, reserved: int
) -> Iterator[tuple[str, SoupResult] | bool]:
    """As `build_soups` in one task, beside other work: never blocks.

    Yields whether the task has begun, wherever there is no soup yet. It reserves ``reserved`` cores, and a GPU if
    ``context.device`` is ``cuda``; it computes with ``cpus``, on which the last digits of a soup may depend.
    """
    options = {"max_retries": 0, "num_cpus": reserved, "num_gpus": 1 if context.device == "cuda" else 0}
    begun = False
    for item in polled(_build_soups, options, [(context, requests, cpus)], SoupError, _TASK, patience=0):
        begun = begun or item is not None
        yield begun if item is None or item[1] is None else item[1]


def measure_similarities(context: SoupContext, request: SimilarityRequest, cpus: int) -> list[SimilarityRecord]:
    """The cosines of every pair of ingredients, measured in a Ray task on ``cpus`` cores. Raises its PipelineError."""
    options = {"max_retries": 0, "num_cpus": cpus}
    return only_result(_measure_similarities, options, (context, request, cpus), SoupError, _TASK)


def _measure_similarities(
    context: SoupContext, request: SimilarityRequest, cpus: int
) -> Iterator[list[SimilarityRecord]]:
    torch.set_num_threads(cpus)
    with scratch() as folder:
        fetched = _fetch(context, [one.trial_index for one in request.ingredients], folder)
        cosines = cosine_similarities(_open(fetched.files), fetched.theta0)
    yield [
        SimilarityRecord(
            trial_index=one,
            other_index=other,
            weights=cosines.weights[i, j].item(),
            from_mean=cosines.from_mean[i, j].item(),
            from_theta0=None if cosines.from_theta0 is None else cosines.from_theta0[i, j].item(),
        )
        for (i, one), (j, other) in combinations(enumerate(index for index in fetched.files if index is not None), 2)
    ]


class _Fetched(NamedTuple):
    """What a task works with, by trial: versions (theta0: None), files of ingredients, what is wrong with some."""

    versions: dict[int | None, IngredientVersion]
    files: dict[int | None, Path]
    damaged: dict[int | None, RegistryError]
    theta0_path: Path | None

    @property
    def theta0(self) -> dict[str, Tensor] | None:
        """The weights that all ingredients started from, memory-mapped; None where they are not known."""
        return None if self.theta0_path is None else IngredientSet.open([self.theta0_path]).state_dict(0)


def _fetch(context: SoupContext, wanted: Sequence[int], folder: Path) -> _Fetched:
    """Raises PipelineError for ingredients that are missing, or damaged unless those are skipped."""
    by_trial = {version.trial_index: version for version in list_ingredients(context.sweep)}
    files, damaged = fetch_intact([by_trial[index] for index in wanted if index in by_trial], folder)
    damaged |= {
        index: RegistryError(f"trial {index}: the registry has no ingredient of it any more; {REMEDY}")
        for index in wanted
        if index not in by_trial
    }
    if damaged and not context.skip_damaged:
        raise RegistryError("\n  ".join(str(error) for error in damaged.values()))
    initial = fetch_ingredients([by_trial[None]], folder) if None in by_trial else [None]
    return _Fetched(by_trial, files, damaged, initial[0])


def _open(files: Mapping[int | None, Path]) -> IngredientSet:
    """The ingredients by trial; raises SoupError that names the trials that do not fit the others."""
    titles = ["theta0" if index is None else f"trial {index}" for index in files]
    try:
        return IngredientSet.open(files.values(), titles=titles)
    except IngredientError as error:
        raise SoupError(f"{error} (with soup.leave_out: [indices of trials])") from error


def _build_soups(
    context: SoupContext, requests: Mapping[str, SoupRequest], cpus: int
) -> Iterator[tuple[str, SoupResult] | None]:
    """In a Ray task: all files are fetched and checked against each other once, then each soup takes its own.

    None comes first: the task has begun.
    """
    yield None
    torch.set_num_threads(cpus)
    splits: Splits = ray.get(context.splits)
    with scratch() as folder:
        wanted = sorted({index for request in requests.values() for index in request.trial_indices})
        fetched = _fetch(context, wanted, folder)
        files = dict(fetched.files)
        if any(request.include_initialization for request in requests.values()):
            if fetched.theta0_path is None:
                raise SoupError(
                    "soup.include_initialization: this run has no theta0; import the ingredients with --theta0"
                )
            files[None] = fetched.theta0_path
        everything = _open(files)
        position = {index: number for number, index in enumerate(files)}
        for name, request in requests.items():
            offered = (*request.trial_indices, *([None] if request.include_initialization else []))
            used = [index for index in offered if index in files]
            if not used:
                raise SoupError(f"every ingredient of {request.method} is damaged; restore the files")
            if request.recorded is not None and len(used) != len(request.recorded.coefficients):
                raise SoupError("an ingredient of a soup that is there already is damaged; restore the file")
            subset = everything.subset(position[index] for index in used)
            versions = [fetched.versions[index] for index in used]
            result = _build_one(context, request, subset, versions, fetched.theta0, splits, folder)
            left_out = tuple(str(error) for index, error in fetched.damaged.items() if index in request.trial_indices)
            yield name, dataclasses.replace(result, left_out=left_out)


@reproducible
def _build_one(
    context: SoupContext,
    request: SoupRequest,
    ingredients: IngredientSet,
    versions: Sequence[IngredientVersion],
    theta0: Mapping[str, Tensor] | None,
    splits: Splits,
    folder: Path,
) -> SoupResult:
    model = context.build_model().to(context.device)
    scores = [context.val_scores[one.trial_index] for one in versions if one.trial_index is not None]
    inputs = SoupInputs(
        model=model,
        ingredients=ingredients,
        fit=splits.fit.tensors(),
        accuracies=None if request.include_initialization else scores,
        device=context.device,
        seed=request.seed,
        recalibrate=recalibration(model, splits, context.device),
        theta0=theta0,
        checkpoint=unfinished_soup(context.unfinished, request),
        settings_of={name: METHODS[name].settings(values) for name, values in request.settings_of.items()},
        precision=request.precision,
        metric=deciding(request.metric),
    )
    method = METHODS[request.method] if request.recorded is None else _between_theta0_and(request.recorded)
    soup = method(inputs, method.settings(request.settings))
    evaluated = evaluate_soup(soup, inputs, splits)
    record = SoupRecord(
        method=request.method,
        num_ingredients=len(ingredients),
        num_selected=len(soup.selected),
        gpu_hours=request.gpu_hours,
        construction_seconds=soup.seconds,
        epochs=soup.epochs,
        peak_memory_bytes=soup.peak_memory_bytes,
        peak_memory_kind=soup.peak_memory_kind,
        peak_reserved_bytes=soup.peak_reserved_bytes,
        epochs_of_trials=soup.epochs_of_trials,
        block_size=max(map(len, soup.blocks), default=None),
        outer_iterations=len(soup.blocks) or None,
        inner_iterations=len(soup.history) // len(soup.blocks) if soup.blocks else None,
        **figures(evaluated),
    )
    run_id = None
    if context.description is not None and _is_wanted(context, record, soup):
        run_id = _register(context, context.description, request, record, soup, versions, folder)
    return SoupResult(
        record=record,
        coefficients=_coefficients(soup, versions),
        predictions=_predictions(evaluated),
        run_id=run_id,
        is_model=soup.state_dict is not None,
        losses=_losses(soup),
    )


def _is_wanted(context: SoupContext, record: SoupRecord, soup: Soup) -> bool:
    """Whether a soup is to be registered."""
    if context.better_than is None:
        return True
    return soup.state_dict is not None and record.rank > context.better_than


def unfinished_soup(folder: Path, request: SoupRequest) -> Path:
    """The file in ``folder`` that a method which takes long keeps its finished blocks in, and goes on from."""
    return folder / f"{request.key}.safetensors"


def _between_theta0_and(recorded: RecordedSoup) -> Method:
    """The point alpha on the line from theta0 through a recorded soup, as a method: no images are looked at."""

    def build(inputs: SoupInputs, settings: WiseFtSettings) -> Soup:
        coefficients = torch.tensor(recorded.coefficients, dtype=torch.float64)  # (K, L)
        weights = soup_from_coefficients(inputs.ingredients, coefficients, recorded.layers)
        soup = Soup("recorded", weights, coefficients, recorded.layers, nonzero_rows(coefficients))
        return wise_ft(inputs.ingredients, soup, inputs.theta0, settings.alpha)

    return dataclasses.replace(METHODS["wise-ft"], build=build)


def _predictions(evaluated: Mapping[str, Evaluated]) -> list[PredictionRecord]:
    return [
        PredictionRecord.model_validate({"split": name, "image_index": image, "label": label, "prediction": prediction})
        for name, split in evaluated.items()
        for image, (label, prediction) in enumerate(zip(split.labels, split.predictions, strict=True))
    ]


def _losses(soup: Soup) -> list[LossRecord]:
    """Every block has as many steps; a method without blocks has another history than of losses."""
    steps = len(soup.history) // len(soup.blocks) if soup.blocks else 0
    return [
        LossRecord(step=step, block=step // steps, loss=loss) for step, loss in enumerate(soup.history if steps else ())
    ]


def _coefficients(soup: Soup, versions: Sequence[IngredientVersion]) -> list[CoefficientRecord]:
    """Of a constructed soup; theta0, where it is an ingredient, has the trial index -1."""
    if soup.state_dict is None:
        return []
    return [
        CoefficientRecord(
            trial_index=-1 if version.trial_index is None else version.trial_index, layer=layer, coefficient=coefficient
        )
        for version, row in zip(versions, soup.coefficients.tolist(), strict=True)
        for layer, coefficient in zip(soup.layers, row, strict=True)
    ]


def _register(
    context: SoupContext,
    description: ModelDescription,
    request: SoupRequest,
    record: SoupRecord,
    soup: Soup,
    versions: Sequence[IngredientVersion],
    folder: Path,
) -> str:
    ingredients = [
        SoupIngredient(
            model_version=version.version, trial_index=version.trial_index, sha256=version.sha256, coefficients=row
        )
        for version, row in zip(versions, soup.coefficients.tolist(), strict=True)
    ]
    path = None
    if soup.state_dict is not None:
        path = folder / record.method / "model.safetensors"
        save_weights(soup.state_dict, path, {"method": record.method, "sweep_id": context.sweep.sweep_id})
    return register(context.sweep, description, request, record, soup.layers, ingredients, path)


def register(
    sweep: Sweep,
    description: ModelDescription,
    request: SoupRequest,
    record: SoupRecord,
    layers: Sequence[str],
    ingredients: Sequence[SoupIngredient],
    weights: Path | None,
) -> str:
    """Register a soup, whose weights are in the file ``model.safetensors`` (None of an ensemble); its run's id."""
    lineage = LineageRecord(
        method=record.method,
        settings={**request.settings, **request.settings_of},
        seed=request.seed,
        learned_on=sweep.origin["split_fit"],
        precision=request.precision,
        layers=list(layers),
        ingredients=list(ingredients),
    )
    if weights is None:
        return register_soup(sweep, record, lineage, None)
    name = description.backbone
    reader = KINDS[description.kind].reader
    model = SoupModel(
        weights=weights,
        description=description,
        network_file=backbone_file(name),
        reader_file=Path(str(reader.__file__)),
        requirements=(*backbone_module(name).REQUIREMENTS, *reader.REQUIREMENTS),
        columns=reader.columns(description.inputs),
        example=reader.example(description.inputs),
    )
    return register_soup(sweep, record, lineage, model)
