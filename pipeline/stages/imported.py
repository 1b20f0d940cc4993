"""Checkpoints that were fine-tuned elsewhere as the ingredients of a run, in place of trials."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from torch import Tensor

from pipeline.cluster import as_they_come, only_result, trial_resources
from pipeline.config import ModelConfig
from pipeline.data import Splits
from pipeline.errors import ConfigError, ModelError, PipelineError, SearchError
from pipeline.evaluation import split_accuracies
from pipeline.models import build_classifier, describe_model, load_backbone, make_theta0, own_names
from pipeline.models.classifier import Classifier
from pipeline.records import IngredientRecord, ModelDescription
from pipeline.records.tables import write_table
from pipeline.registry import IngredientRecorder, read_trials
from pipeline.stages.context import Run
from pipeline.stages.state import save_state
from pipeline.weights import load_weights, read_metadata, read_weights, unique_state, weights_sha256

logger = logging.getLogger(__name__)

_TASK = "a task of the import"
_SPLITS = {"val_accuracy": "fit", "select_accuracy": "select", "test_accuracy": "test"}


@dataclass(frozen=True)
class _Context:
    """What the tasks share; ``splits`` refers to the images in Ray's object store."""

    model: ModelConfig
    description: ModelDescription
    splits: ray.ObjectRef
    device: str
    seed: int
    recorder: IngredientRecorder | None = None

    def headless(self, path: Path) -> ModelConfig:
        """The model with the tower of ``path``, for a checkpoint that has no head of its own."""
        images = {"mean": self.description.mean, "std": self.description.std}
        return self.model.model_copy(update={"pretrained": str(path), "contrastive": None, **images})


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
    use_gpu, reserved = trial_resources(run.cluster, config.search)
    context = _Context(
        model=config.model,
        description=describe_model(config.model, config.data.image_size, run.splits.class_names),
        splits=run.splits_ref,
        device="cuda" if use_gpu else "cpu",
        seed=config.seed,
    )
    options: dict[str, Any] = {"max_retries": 0, "num_cpus": 1 if use_gpu else reserved}
    if use_gpu:
        options["num_gpus"] = reserved
    # Four rounds, so that nothing is registered before all files are known to be good: compare what is given with what
    # is registered, check the files, find their one starting point, and only then measure and register the new ones.
    registered = {row.trial_index: row for row in read_trials(run.sweep)}
    for path, row in zip(checkpoints, rows, strict=True):
        if changed_names := _changed_names(row, registered.get(row.trial_index)):
            raise ConfigError(
                f"--accuracy-file: {path} is imported with another {changed_names[0]}; leave it out, or use --fresh"
            )
    unregistered = [
        (path, row) for path, row in zip(checkpoints, rows, strict=True) if row.trial_index not in registered
    ]
    files = [path for path, _ in unregistered] + ([theta0] if theta0 is not None else [])
    logger.info("import: checking %d files", len(files))
    checked = dict(as_they_come(_check, options, [(context, path) for path in files], SearchError, _TASK))
    origins = _origins(files, [checked[number] for number in range(len(files))])
    initial = None
    if theta0 is not None:
        initial = only_result(_theta0, options, (context, theta0), SearchError, _TASK)
        origins.add(initial.sha256)
    theta0_sha256 = _one_origin(run, origins, new_run=not registered)
    if run.state.imported != [str(path) for path in checkpoints]:
        # Before the first is registered: from then on its index is its own.
        run.state.imported = [str(path) for path in checkpoints]
        run.state.done.clear()
        save_state(run.folder, run.state)
    if not registered or not run.folder.run.exists():
        run.begin(theta0_sha256, None, None if initial is None else initial.test_accuracy)
    recorder = IngredientRecorder(run.sweep, theta0_sha256, run.splits.class_names)
    if initial is not None:
        recorder.upload_theta0(initial.state)
    context = dataclasses.replace(context, recorder=recorder)
    calls = [(context, path, row.model_copy(update={"theta0_sha256": theta0_sha256})) for path, row in unregistered]
    for number, row in as_they_come(_import, options, calls, SearchError, _TASK):
        logger.info(
            "import: %s: validation %.2f%%, test %.2f%%",
            unregistered[number][0].name, 100 * (row.val_accuracy or 0), 100 * (row.test_accuracy or 0),
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
    write_table(run.folder.ingredients, rows, IngredientRecord)
    logger.info("search: %d ingredients, all imported", len(rows))


def _origins(files: Sequence[Path], checked: Sequence[_Checked]) -> set[str]:
    """The starting points that the files name; raises ModelError for files that cannot be imported."""
    problems = [result.problem for result in checked if result.problem is not None]
    path_of_sha256: dict[str, Path] = {}
    for path, result in zip(files, checked, strict=True):
        if result.problem is None and (other := path_of_sha256.setdefault(result.sha256, path)) != path:
            problems.append(f"{path}: holds the same weights as {other}; leave one of them out")
    if problems:
        raise ModelError("\n  ".join([f"{len(problems)} of {len(files)} files cannot be imported:", *problems]))
    return {result.theta0_sha256 for result in checked if result.theta0_sha256 is not None}


def _one_origin(run: Run, origins: set[str], *, new_run: bool) -> str | None:
    """The starting point of all ingredients, those that are there already too; None where no file names it."""
    recorded_origin = None if new_run else run.record().theta0_sha256
    if not new_run and recorded_origin is None and origins:
        raise ConfigError(
            "these files say what they were fine-tuned from, and those that this run has already do not; give all of "
            "them again, with --theta0 and --fresh"
        )
    all_origins = origins | ({recorded_origin} if recorded_origin is not None else set())
    if len(all_origins) > 1:
        raise ConfigError(
            "the files were fine-tuned from different starting points (theta0_sha256 "
            f"{', '.join(sorted(sha256[:12] for sha256 in all_origins))}); import those of one"
        )
    if not all_origins:
        logger.info("import: no file says what it was fine-tuned from; a soup needs one starting point for all")
    return next(iter(all_origins), None)


def _changed_names(row: IngredientRecord, registered: IngredientRecord | None) -> list[str]:
    """The names of what ``row`` knows and ``registered``, if there is one, has otherwise."""
    if registered is None:
        return []
    # A cost or a number of images of 0 stands for one that was not given.
    columns = row.model_dump(exclude={"attempts", "model_version"}, exclude_none=True)
    columns = {name: value for name, value in columns.items() if value or name == "seed"}
    earlier = registered.model_dump()
    return [name for name, value in columns.items() if value != earlier.get(name)]


def _check(context: _Context, path: Path) -> Iterator[_Checked]:
    try:
        metadata = read_metadata(path)
        classes = metadata.get("class_names", "")
        if classes.startswith("[") and json.loads(classes) != context.description.class_names:
            raise ModelError(f"{path}: was made for other classes, or for these in another order")
        tensors = read_weights(path)
        state = own_names(tensors, context.description.head_name)
        if _has_head(state):
            model = build_classifier(context.model, len(context.description.class_names))
            load_weights(model, state, source=str(path))
        else:
            load_backbone(context.headless(path), pretrained=True, local=tensors)
        yield _Checked(metadata.get("theta0_sha256"), weights_sha256(state))
    except PipelineError as error:
        yield _Checked(problem=str(error))


def _import(context: _Context, path: Path, row: IngredientRecord) -> Iterator[IngredientRecord]:
    """Measure what is not known, upload, record."""
    splits: Splits = ray.get(context.splits)
    model = _load(context, path, splits)
    column_of_split = {split: column for column, split in _SPLITS.items() if getattr(row, column) is None}
    accuracies = split_accuracies(model, splits, context.device, list(column_of_split))
    row = row.model_copy(update={column_of_split[split]: value for split, value in accuracies.items()})
    assert context.recorder is not None  # noqa: S101 (set before this task is started)
    uri, sha256 = context.recorder.upload(row.trial_index, unique_state(model.cpu()))
    row = row.model_copy(update={"path": uri, "sha256": sha256})
    context.recorder.record(row, imported_from=str(path))
    yield row


def _theta0(context: _Context, path: Path) -> Iterator[_Initial]:
    splits: Splits = ray.get(context.splits)
    model = _load(context, path, splits)
    test_accuracy = split_accuracies(model, splits, context.device, ["test"])["test"] or 0.0
    state = unique_state(model.cpu())
    yield _Initial(state, weights_sha256(state), test_accuracy)


def _load(context: _Context, path: Path, splits: Splits) -> Classifier:
    """The classifier of a checkpoint; where that has no head, with the one that ``model.head`` makes for it."""
    tensors = read_weights(path)
    state = own_names(tensors, context.description.head_name)
    if not _has_head(state):
        config, names = context.headless(path), splits.class_names
        return make_theta0(config, names, splits.train, None, device=context.device, seed=context.seed, local=tensors)
    model = build_classifier(context.model, len(splits.class_names))
    load_weights(model, state, source=str(path))
    return model


def _has_head(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("head.") for name in state)
