"""Checkpoints that were fine-tuned elsewhere as the ingredients of a run, in place of trials."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from torch import Tensor, nn

from pipeline.cluster import as_they_come, only_result, trial_resources
from pipeline.config import ModelConfig
from pipeline.data import Splits
from pipeline.errors import ConfigError, ModelError, PipelineError, SearchError, quoted
from pipeline.evaluation import split_figures
from pipeline.metrics import ACCURACY
from pipeline.models import build_classifier, describe_model, load_backbone, make_theta0, read_own
from pipeline.models.classifier import Classifier
from pipeline.precision import reproducible
from pipeline.records import IngredientRecord, ModelDescription
from pipeline.records.tables import write_table
from pipeline.registry import IngredientRecorder, read_trials
from pipeline.stages.context import Run
from pipeline.stages.state import save_state
from pipeline.weights import (
    Checkpoint,
    WeightsChoice,
    class_names_of,
    load_weights,
    unique_state,
    weights_sha256,
)

logger = logging.getLogger(__name__)

_TASK = "a task of the import"
_SPLITS = {"val": "fit", "select": "select", "test": "test"}  # by what columns call them


@dataclass(frozen=True)
class _Context:
    """What the tasks share; ``splits`` refers to the images in Ray's object store.

    ``weights`` says which are taken of a file that holds raw and averaged ones.
    """

    model: ModelConfig
    description: ModelDescription
    splits: ray.ObjectRef
    device: str
    seed: int
    weights: WeightsChoice = "auto"
    recorder: IngredientRecorder | None = None

    def headless(self, path: Path) -> ModelConfig:
        """The model with the tower of ``path``, for a checkpoint that has no head of its own."""
        known = {name: value for name, value in self.description.inputs.items() if name in ModelConfig.model_fields}
        return self.model.model_copy(update={"pretrained": str(path), "contrastive": None, **known})


@dataclass(frozen=True)
class _Checked:
    """What a file says of its starting point and what its model holds; or what is wrong with it.

    ``sha256`` is that of the weights as the model has them, ``infinite`` those of the tensors with infinite values, by
    name. ``notes`` say what was chosen or passed over in the file.
    """

    theta0_sha256: str | None = None
    sha256: str = ""
    infinite: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class _Initial:
    """theta0, the SHA-256 of its tensors, its figures by column."""

    state: dict[str, Tensor]
    sha256: str
    figures: dict[str, float | None]


def import_checkpoints(
    run: Run,
    checkpoints: Sequence[Path],
    rows: Sequence[IngredientRecord],
    theta0: Path | None,
    weights: WeightsChoice = "auto",
) -> None:
    """Register ``checkpoints`` that are not registered yet, row by row of ``rows``, and write the run's records.

    ``rows`` hold what is known of each; accuracies that are None are measured, and scores by another metric. All files
    are checked before the first is registered; of one that holds raw and averaged weights, those that ``weights`` says
    are taken. Raises ModelError that lists the files that do not fit the model of the run, cannot be souped or are
    there twice, and ConfigError for files that were fine-tuned from different starting points.
    """
    config = run.config
    use_gpu, reserved = trial_resources(run.cluster, config.search)
    context = _Context(
        model=config.model,
        description=describe_model(config.model, config.data, run.splits.class_names),
        splits=run.splits_ref,
        device="cuda" if use_gpu else "cpu",
        seed=config.seed,
        weights=weights,
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
    choices = [weights] * len(unregistered) + ["auto"]  # of theta0, whatever is there
    calls = [(context, path, choice) for path, choice in zip(files, choices, strict=False)]

    def lost(number: int, reason: str) -> _Checked:  # a file that is larger than memory, say
        said = f"the process that read it was lost ({reason.rstrip('.')}); leave it out, or give the command again"
        return _Checked(problem=f"{files[number]}: {said}")

    by_number = dict(as_they_come(_check, options, calls, SearchError, _TASK, lost))
    checked = [by_number[number] for number in range(len(files))]
    origins = _origins(files, checked, run.state.imported_sha256)
    _tell_notes(files, checked)
    initial = None
    if theta0 is not None:
        initial = only_result(_theta0, options, (context, theta0), SearchError, _TASK)
        origins.add(initial.sha256)
    theta0_sha256 = _one_origin(run, origins, new_run=not registered)
    if run.state.imported != [str(path) for path in checkpoints]:
        # Before the first is registered: from then on its index is its own.
        run.state.imported = [str(path) for path in checkpoints]
        run.state.imported_sha256 |= {
            str(path): result.sha256 for (path, _), result in zip(unregistered, checked, strict=False)
        }
        run.state.imported_weights = weights
        run.state.done.clear()
        save_state(run.folder, run.state)
    if not registered or not run.folder.run.exists():
        run.begin(theta0_sha256, None, {} if initial is None else initial.figures)
    recorder = IngredientRecorder(run.sweep, theta0_sha256, run.splits.class_names)
    if initial is not None:
        recorder.upload_theta0(initial.state, run.record().theta0_figures)
    context = dataclasses.replace(context, recorder=recorder)
    tasks = [(context, path, row.model_copy(update={"theta0_sha256": theta0_sha256})) for path, row in unregistered]
    for number, row in as_they_come(_import, options, tasks, SearchError, _TASK):
        logger.info(
            "import: %s: validation %.2f%%, test %.2f%%",
            _title(unregistered[number][0]), 100 * (row.val_score or 0), 100 * (row.test_score or 0),
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


def _tell_notes(files: Sequence[Path], checked: Sequence[_Checked]) -> None:
    """A line for each note, with the first files that it is about."""
    files_of: dict[str, list[str]] = {}
    for path, result in zip(files, checked, strict=True):
        for note in result.notes:
            files_of.setdefault(note, []).append(_title(path))
    for note, names in files_of.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        logger.info("import: %s%s: %s", ", ".join(names[:3]), more, note)


def _title(path: Path) -> str:
    """A folder with the one that it is in, as the folders of many trainings have the same name."""
    return f"{path.parent.name}/{path.name}" if path.is_dir() else path.name


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(quoted(name) for name in names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown


def _origins(files: Sequence[Path], checked: Sequence[_Checked], imported: Mapping[str, str]) -> set[str]:
    """The starting points that the files name; raises ModelError for files that cannot be imported.

    ``imported`` are the hashes of the weights that the run has already, by path.
    """
    problems = [result.problem for result in checked if result.problem is not None]
    named_by_sha256 = {sha256: path for path, sha256 in imported.items()}
    sound = [(path, result) for path, result in zip(files, checked, strict=True) if result.problem is None]
    for path, result in sound:
        if (other := named_by_sha256.setdefault(result.sha256, str(path))) != str(path):
            problems.append(f"{path}: holds the same weights as {other}; leave one of them out")
        for name, sha256 in result.infinite.items():  # a mask, say, is no fault: nothing is mixed where all are equal
            if any(other.infinite.get(name) != sha256 for _, other in sound):
                problems.append(f"{path}: '{name}' has infinite values, which not all files have; leave it out")
                break
    if problems:
        count = f"{len(problems)} of {len(files)} files cannot be imported:"
        remedy = "--leave-out NAME, once for each, imports the others"
        if len(problems) == len(files):
            remedy = "if they are models, then perhaps of another kind than `model` in the settings"
        raise ModelError("\n  ".join([count, *problems, remedy]))
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


def _check(context: _Context, path: Path, weights: WeightsChoice) -> Iterator[_Checked]:
    try:
        checkpoint, state = read_own(path, weights, context.description)
        notes = [f"{checkpoint.choice}; see --weights"] if checkpoint.choice is not None else []
        try:
            names = class_names_of(checkpoint.metadata)
        except ValueError as error:
            names = None
            notes.append(f"class_names in the header {error} and was not compared")
        origin = checkpoint.metadata.get("theta0_sha256")
        if origin is not None and not re.fullmatch("[0-9a-f]{64}", origin):
            origin = None
            notes.append("theta0_sha256 in the header is no SHA-256 and was not compared")
        if names is not None and names != context.description.class_names and _has_head(state):
            raise ModelError(
                f"{path}: was made for other classes, or for these in another order: {_some(names)}, and the data have "
                f"{_some(context.description.class_names)}; if these are the same, say so in data.class_names"
            )
        model: nn.Module
        if _has_head(state):
            model = build_classifier(context.model, len(context.description.class_names))
            load_weights(model, state, source=str(path))
            if strays := [name for name in state if name not in model.state_dict()]:
                notes.append(f"constants that the model lacks were passed over ({strays[0].removeprefix('tower.')})")
        else:
            model = load_backbone(context.headless(path), pretrained=True, local=checkpoint.state).tower
        yield _Checked(
            origin,
            weights_sha256(unique_state(model)),
            _infinite(model, path),
            tuple(notes),
        )
    except PipelineError as error:
        yield _Checked(problem=str(error))
    except Exception as error:  # of any kind: anybody may have written the file
        reason = (str(error).splitlines() or [""])[0][:200]
        yield _Checked(problem=f"{path}: does not fit the model ({type(error).__name__}: {reason}); leave it out")


def _infinite(model: nn.Module, path: Path) -> dict[str, str]:
    """The hashes of the buffers with infinite values by name; raises ModelError for weights that are not finite."""
    infinite: dict[str, str] = {}
    parameters = dict(model.named_parameters())
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or value.isfinite().all():
            continue
        kind = "NaN" if value.isnan().any() else "infinite"
        if kind == "NaN" or name in parameters:
            raise ModelError(f"{path}: '{name}' has {kind} values; leave it out")
        infinite[name] = weights_sha256({name: value})
    return infinite


def _import(context: _Context, path: Path, row: IngredientRecord) -> Iterator[IngredientRecord]:
    """Measure what is not known, upload, record."""
    known = row.model_dump(exclude_none=True)
    splits: Splits = ray.get(context.splits)
    wanted = ("accuracy",) if splits.metric == ACCURACY else ("accuracy", "score")
    names = [split for name, split in _SPLITS.items() if any(f"{name}_{what}" not in known for what in wanted)]
    model, checkpoint, figures = _measured(context, path, context.weights, names)
    row = row.model_copy(update={column: value for column, value in figures.items() if column not in known})
    assert context.recorder is not None  # noqa: S101 (set before this task is started)
    uri, sha256 = context.recorder.upload(row.trial_index, unique_state(model.cpu()))
    row = row.model_copy(update={"path": uri, "sha256": sha256})
    kind = "averaged" if checkpoint.averaged else "raw"
    taken = f"{kind} ({checkpoint.taken})" if checkpoint.taken else kind
    context.recorder.record(row, imported_from=str(path), imported_weights=taken)
    yield row


def _theta0(context: _Context, path: Path) -> Iterator[_Initial]:
    model, _, figures = _measured(context, path, "auto")
    state = unique_state(model.cpu())
    yield _Initial(state, weights_sha256(state), figures)


@reproducible
def _measured(
    context: _Context, path: Path, weights: WeightsChoice, names: Sequence[str] | None = None
) -> tuple[Classifier, Checkpoint, dict[str, float | None]]:
    """The classifier of a checkpoint and its figures on the named splits, or on all."""
    splits: Splits = ray.get(context.splits)
    model, checkpoint = _load(context, path, splits, weights)
    names = tuple(splits.measured()) if names is None else names
    return model, checkpoint, split_figures(model, splits, context.device, names)


def _load(context: _Context, path: Path, splits: Splits, weights: WeightsChoice) -> tuple[Classifier, Checkpoint]:
    """The classifier of a checkpoint; where that has no head, with the one that ``model.head`` makes for it."""
    checkpoint, state = read_own(path, weights, context.description)
    if not _has_head(state):
        config, names, local = context.headless(path), splits.class_names, checkpoint.state
        model = make_theta0(
            config,
            names,
            splits.train,
            None,
            device=context.device,
            seed=context.seed,
            local=local,
            precision=splits.precision,
        )
        return model, checkpoint
    model = build_classifier(context.model, len(splits.class_names))
    load_weights(model, state, source=str(path))
    return model, checkpoint


def _has_head(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("head.") for name in state)
