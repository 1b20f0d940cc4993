"""Checkpoints that were fine-tuned elsewhere as the ingredients of a run, in place of trials."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from torch import Tensor

from pipeline.cluster import trial_resources
from pipeline.config import ModelConfig
from pipeline.data import Splits, write_table
from pipeline.errors import ConfigError, ModelError, PipelineError, SearchError
from pipeline.evaluation import accuracy, predict
from pipeline.models import (
    build_classifier,
    describe_model,
    load_weights,
    make_theta0,
    own_names,
    read_metadata,
    read_weights,
    save_weights,
    unique_state,
    weights_sha256,
)
from pipeline.models.classifier import Classifier
from pipeline.records import IngredientRecord
from pipeline.registry import IngredientRecorder, read_trials
from pipeline.stages.context import Run
from pipeline.state import save_state

logger = logging.getLogger(__name__)

_SPLITS = {"val_accuracy": "fit", "select_accuracy": "select", "test_accuracy": "test"}


@dataclass(frozen=True)
class _Context:
    """What the tasks share; ``splits`` refers to the images in Ray's object store."""

    model: ModelConfig
    head_name: str | None
    splits: ray.ObjectRef
    device: str
    seed: int
    recorder: IngredientRecorder | None = None


@dataclass(frozen=True)
class _Checked:
    """What a file says of its starting point, and the SHA-256 of its tensors; or what is wrong with it."""

    theta0_sha256: str | None = None
    sha256: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class _Initial:
    """theta0, the SHA-256 of its tensors, its accuracy."""

    state: dict[str, Tensor]
    sha256: str
    test_accuracy: float


def import_checkpoints(
    run: Run, checkpoints: Sequence[Path], rows: Sequence[IngredientRecord], theta0: Path | None
) -> None:
    """Register ``checkpoints`` that are not registered yet, row by row of ``rows``, and write the run's records.

    ``rows`` hold what is known of each; accuracies that are None are measured. All files are checked before the first
    is registered. Raises ModelError that lists the files that do not fit the model of the run or are there twice, and
    ConfigError for files that were fine-tuned from different starting points.
    """
    config = run.config
    described = describe_model(config.model, config.data.image_size, run.splits.class_names)
    context = _Context(config.model, described.head_name, run.splits_ref, run.cluster.device, config.seed)
    use_gpu, reserved = trial_resources(run.cluster, config.search)
    options: dict[str, Any] = {"max_retries": 0, "num_cpus": 1 if use_gpu else reserved}
    if use_gpu:
        options["num_gpus"] = reserved
    files = [*checkpoints, *([theta0] if theta0 is not None else [])]
    logger.info("import: checking %d files", len(files))
    check = ray.remote(_check).options(**options)
    theta0_sha256s = _origins(files, ray.get([check.remote(context, path) for path in files]))
    initial = None
    if theta0 is not None:
        initial = ray.get(ray.remote(_theta0).options(**options).remote(context, theta0))
        theta0_sha256s.add(initial.sha256)
    if len(theta0_sha256s) > 1:
        raise ConfigError(
            "the files were fine-tuned from different starting points (theta0_sha256 "
            f"{', '.join(sorted(one[:12] for one in theta0_sha256s))}); import those of one"
        )
    if not theta0_sha256s:
        logger.info("import: no file says what it was fine-tuned from; a soup needs one starting point for all")
    theta0_sha256 = next(iter(theta0_sha256s), None)
    # Before the first is registered: from then on its index is its own.
    run.state.imported = [str(path) for path in checkpoints]
    save_state(run.config, run.state)
    if not run.path("run.json").exists() or run.record().theta0_sha256 != theta0_sha256:
        run.begin(theta0_sha256, None, initial and initial.test_accuracy)
    recorder = IngredientRecorder(run.sweep, theta0_sha256, run.splits.class_names, save_weights)
    if initial is not None:
        recorder.upload_theta0(initial.state)
    context = dataclasses.replace(context, recorder=recorder)
    task = ray.remote(_import).options(**options)
    done = {row.trial_index for row in read_trials(run.sweep)}
    missing = {
        task.remote(context, path, row.model_copy(update={"theta0_sha256": theta0_sha256})): path
        for path, row in zip(checkpoints, rows, strict=True)
        if row.trial_index not in done
    }
    for path, row in _as_they_come(missing):
        logger.info(
            "import: %s: validation %.2f%%, test %.2f%%",
            path.name, 100 * (row.val_accuracy or 0), 100 * (row.test_accuracy or 0),
        )  # fmt: skip
    write_imported(run)


def write_imported(run: Run) -> None:
    """Write ``ingredients.parquet``; raises SearchError while some checkpoints are not registered."""
    rows = read_trials(run.sweep)
    if len(rows) < len(run.state.imported):
        raise SearchError(
            f"{len(rows)} of the {len(run.state.imported)} checkpoints of this run are imported; "
            "give the command `import` again"
        )
    write_table(run.path("ingredients.parquet"), rows, IngredientRecord)
    logger.info("search: %d ingredients, all imported", len(rows))


def _as_they_come(tasks: Mapping[ray.ObjectRef, Path]) -> Iterator[tuple[Path, IngredientRecord]]:
    waiting = list(tasks)
    while waiting:
        (ready,), waiting = ray.wait(waiting)
        try:
            yield tasks[ready], ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, PipelineError) else error from error


def _origins(files: Sequence[Path], checked: Sequence[_Checked]) -> set[str]:
    """The starting points that the files name; raises ModelError for files that cannot be imported."""
    problems = [one.problem for one in checked if one.problem is not None]
    first: dict[str, Path] = {}
    for path, one in zip(files, checked, strict=True):
        if one.problem is None and (other := first.setdefault(one.sha256, path)) != path:
            problems.append(f"{path}: holds the same weights as {other}; leave one of them out")
    if problems:
        raise ModelError("\n  ".join([f"{len(problems)} of {len(files)} files cannot be imported:", *problems]))
    return {one.theta0_sha256 for one in checked if one.theta0_sha256 is not None}


def _check(context: _Context, path: Path) -> _Checked:
    try:
        splits: Splits = ray.get(context.splits)
        model = build_classifier(context.model, len(splits.class_names))
        state = own_names(read_weights(path), context.head_name)
        load_weights(model if _has_head(state) else model.tower, _headless(state), source=str(path))
        return _Checked(read_metadata(path).get("theta0_sha256"), weights_sha256(state))
    except PipelineError as error:
        return _Checked(problem=str(error))


def _import(context: _Context, path: Path, row: IngredientRecord) -> IngredientRecord:
    """Measure what is not known, upload, record."""
    splits: Splits = ray.get(context.splits)
    model = _load(context, path, splits)
    row = row.model_copy(update=_missing_accuracies(model, splits, row, context.device))
    assert context.recorder is not None  # noqa: S101 (set before this task is started)
    uri, sha256 = context.recorder.upload(row.trial_index, unique_state(model.cpu()))
    row = row.model_copy(update={"path": uri, "sha256": sha256})
    context.recorder.record(row)
    return row


def _theta0(context: _Context, path: Path) -> _Initial:
    splits: Splits = ray.get(context.splits)
    model = _load(context, path, splits)
    images, labels = splits.test.tensors()
    measured = accuracy(predict(model.to(context.device), images, context.device), labels) or 0.0
    state = unique_state(model.cpu())
    return _Initial(state, weights_sha256(state), measured)


def _load(context: _Context, path: Path, splits: Splits) -> Classifier:
    """The classifier of a checkpoint; where that has no head, with the one that ``model.head`` makes for it."""
    state = own_names(read_weights(path), context.head_name)
    if not _has_head(state):
        config = context.model.model_copy(update={"pretrained": str(path), "contrastive": None})
        return make_theta0(config, splits.class_names, splits.train, None, device=context.device, seed=context.seed)
    model = build_classifier(context.model, len(splits.class_names))
    load_weights(model, state, source=str(path))
    return model


def _missing_accuracies(
    model: Classifier, splits: Splits, row: IngredientRecord, device: str
) -> dict[str, float | None]:
    model.to(device)
    found = {}
    for name, split in _SPLITS.items():
        if getattr(row, name) is None:
            images, labels = getattr(splits, split).tensors()
            found[name] = accuracy(predict(model, images, device), labels)
    return found


def _has_head(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("head.") for name in state)


def _headless(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Names of the tower's own where there is no head."""
    return state if _has_head(state) else {name.removeprefix("tower."): value for name, value in state.items()}
