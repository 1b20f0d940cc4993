"""What runs in a Tune worker: one trial, resumed from its last saved epoch, recorded once."""

from __future__ import annotations

import contextlib
import ctypes
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray import tune
from torch import Tensor, nn

from pipeline.config import SearchConfig
from pipeline.data import Splits
from pipeline.errors import TrialRejected
from pipeline.evaluation import split_figures
from pipeline.finetune import TRAINERS
from pipeline.metrics import ACCURACY
from pipeline.precision import is_out_of_memory, reproducible
from pipeline.records import EpochRecord, Hyperparameters, IngredientRecord
from pipeline.search.attempts import read_attempts, timed_attempt
from pipeline.search.sampling import Trial
from pipeline.search.storage import Storage, StoreAway
from pipeline.search.suggesting import suggested
from pipeline.weights import load_weights, unique_state

_SAVING_SHARE = 0.1  # of a trial's time may go into saving: states of large models on object stores take seconds
SCORE = "score"  # what a trial reports to a scheduler beside its epoch
_SUGGESTED = "hyperparameters.json"  # in the storage of a trial, where they are not drawn beforehand
_STOP = "stop"  # a file in the storage of a trial that is to end
_LOG_SECONDS = 5  # between two reports of a trial to the registry, so that short epochs do not wait for it


class Recorder(Protocol):
    """Where trials are recorded; called in the workers, so it must be picklable."""

    def begin(self, trial_index: int, hyper: Hyperparameters) -> None:
        """Show that a trial is running; may fail in silence, and be repeated."""
        ...

    def log_epochs(self, trial_index: int, epochs: Sequence[EpochRecord]) -> None:
        """Show how the trial gets on; may fail in silence."""
        ...

    def upload(self, trial_index: int, state: Mapping[str, Tensor]) -> tuple[str, str]:
        """Store the weights of a trial; returns their URI and the SHA-256 of the file."""
        ...

    def record(self, row: IngredientRecord, **tags: str) -> None:
        """Record the outcome of a trial, at most once per trial, with ``tags`` besides its columns."""
        ...


@dataclass(frozen=True)
class TrialContext:
    """What all trials share.

    ``name`` is the run's. ``splits`` and ``theta0`` are references into Ray's object store, read there without a copy.
    ``reserved`` GPUs (CPU cores where ``use_gpu`` is False) are what an hour of a trial is multiplied by. ``storage``
    keeps the state of unfinished trials, ``experiments`` what Tune notes of its own. ``only_node``, if given, is the
    address of the one node that trials may run on. ``reports`` is where a scheduler keeps what trials reported.
    """

    name: str
    trials: tuple[Trial, ...]
    build_model: Callable[[], nn.Module]
    splits: ray.ObjectRef
    theta0: ray.ObjectRef
    theta0_sha256: str | None
    settings: SearchConfig
    use_gpu: bool
    reserved: float
    storage: Storage
    experiments: Path
    recorder: Recorder
    only_node: str | None = None
    reports: Path | None = None

    def trial(self, index: int) -> Trial:
        """The trial of this index, with the hyperparameters that were suggested for it, if any were."""
        trial = self.drawn(index)
        hyper = self._suggested(trial)
        return trial if hyper is None else replace(trial, hyper=hyper)

    def drawn(self, index: int) -> Trial:
        """The trial of this index as it was drawn."""
        return next(trial for trial in self.trials if trial.index == index)

    def _suggested(self, trial: Trial) -> Hyperparameters | None:
        if self.settings.algorithm == "random":
            return None
        with self.storage_of(trial).reading(_SUGGESTED) as file:
            return None if file is None else type(trial.hyper).model_validate_json(file.read())

    def suggest(self, index: int, rows: Sequence[IngredientRecord]) -> Hyperparameters:
        """What a trial begins with once those of ``rows`` have ended; what was suggested before stands."""
        trial = self.drawn(index)
        if self.settings.algorithm == "random":
            return trial.hyper
        hyper = self._suggested(trial)
        if hyper is None:
            hyper = suggested(self.settings, trial, rows)
            with self.storage_of(trial).writing(_SUGGESTED) as file:
                file.write(json.dumps(hyper.given).encode())
        return hyper

    def storage_of(self, trial: Trial) -> Storage:
        """The folder with the unfinished state and the attempts of ``trial``."""
        return self.storage.child(f"trial-{trial.index:05d}")


def run_trial(config: dict[str, Any], context: TrialContext) -> None:
    """Fine-tune, upload and record the trial of the index ``config["trial"]``.

    Every epoch is reported to Tune and, as `paced` allows, saved; an attempt that finds a saved epoch goes on from it.
    For a scheduler it is measured too, and the trial ends after it where `ask_to_stop` was called meanwhile. Where a
    GPU that it shares runs out of memory, the attempt ends, and only Tune is told; where the trial has the GPU for
    itself, it is rejected.
    """
    trial = context.trial(config["trial"])
    storage = context.storage_of(trial)
    unlogged: list[EpochRecord] = []
    last_logged = time.monotonic()

    def log_epochs() -> None:
        nonlocal last_logged
        context.recorder.log_epochs(trial.index, tuple(unlogged))
        unlogged.clear()
        last_logged = time.monotonic()

    save = paced(lambda state: save_state(storage, state))

    def on_epoch(epoch_record: EpochRecord, state: dict[str, Any], score: float | None) -> None:
        save(state)
        give_back_memory()
        unlogged.append(epoch_record)
        if time.monotonic() - last_logged > _LOG_SECONDS:
            log_epochs()
        tune.report({"epoch": epoch_record.epoch} if score is None else {"epoch": epoch_record.epoch, SCORE: score})
        # Tune has decided when `report` returns.
        if score is not None and epoch_record.epoch < trial.hyper.epochs and _STOP in storage.names():
            raise _Stopped(epoch_record.epoch)

    device, node = torch.cuda.get_device_name() if context.use_gpu else "cpu", ray.util.get_node_ip_address()
    # `outcome` sums the hours of the attempts in `storage`, so it is called when this one has been written to the end.
    with timed_attempt(storage, device, context.reserved, node):
        try:
            context.recorder.begin(trial.index, trial.hyper)
            columns = _finetuned(context, trial, on_epoch)
        except TrialRejected as rejection:
            columns = {"status": "rejected", "reason": str(rejection)}
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            alone = context.reserved >= 1
            columns = {"status": "rejected", "reason": f"{device} is too small for it: out of memory"} if alone else {}
        log_epochs()
    if not columns:
        torch.cuda.empty_cache()  # the process may be that of the next trial too
        tune.report({"crowded": True})
        return
    row = outcome(trial, context, **columns)
    context.recorder.record(row, node=node)
    storage.remove()
    tune.report({"row": row.model_dump_json()})


@reproducible
def _finetuned(
    context: TrialContext, trial: Trial, on_epoch: Callable[[EpochRecord, dict[str, Any], float | None], None]
) -> dict[str, Any]:
    """Fine-tune and upload; returns the columns of the record that follow from it."""
    torch.set_num_threads(context.settings.cpus_per_trial)
    storage, device = context.storage_of(trial), "cuda" if context.use_gpu else "cpu"
    model, splits = context.build_model(), ray.get(context.splits)
    load_weights(model, ray.get(context.theta0), source="theta0")

    def measured_epoch(epoch_record: EpochRecord, state: dict[str, Any]) -> None:
        score = None if context.settings.scheduler == "none" else _score_now(model, splits, device)
        on_epoch(epoch_record, state, score)

    try:
        finetuned = TRAINERS[context.settings.trainer].train(
            model,
            splits,
            trial.hyper,
            context.settings,
            device=device,
            resume=load_state(storage),
            on_epoch=measured_epoch,
        )
    except _Stopped as stopped:
        return _measured_early(context, trial, model, splits, device, stopped.epoch)
    if splits.metric != ACCURACY and finetuned.val_score is None:
        raise TrialRejected(
            f"trainer '{context.settings.trainer}' returns no val_score by data.metric '{splits.metric}'; "
            "`split_figures` measures what it returns"
        )
    path, sha256 = context.recorder.upload(trial.index, unique_state(model))
    return {"status": "finished", **vars(finetuned), "path": path, "sha256": sha256}


class _Stopped(Exception):
    """Ends the training of a trial after an ``epoch``."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch


def give_back_memory() -> None:
    """Let the system have the host memory that was freed.

    On a CPU batches of texts take another shape each time, and glibc keeps what fitted none of the later ones: some GB
    in an epoch, which would stay in the worker for the trials after this one.
    """
    with contextlib.suppress(AttributeError, OSError):  # other C libraries
        ctypes.CDLL(None).malloc_trim(0)


def ask_to_stop(storage: Storage) -> None:
    """Let the trial that ``storage`` belongs to end after the epoch that it has reported last."""
    with storage.writing(_STOP):
        pass


def _score_now(model: nn.Module, splits: Splits, device: str) -> float:
    """What decides, on `select`, of the model as it is; on `fit` where there is no `select`."""
    name, column = ("select", "select") if len(splits.select) else ("fit", "val")
    found = split_figures(model, splits, device, (name,))
    score = found.get(f"{column}_score", found[f"{column}_accuracy"])
    return float(score or 0.0)


def _measured_early(
    context: TrialContext, trial: Trial, model: nn.Module, splits: Splits, device: str, epoch: int
) -> dict[str, Any]:
    """The columns of a trial that was stopped: measured as it is, without the moving average that it was to have."""
    columns: dict[str, Any] = {
        "status": "stopped",
        "reason": f"{context.settings.scheduler} stopped it after {epoch} of {trial.hyper.epochs} epochs",
        "images_seen": epoch * len(splits.train),
        **split_figures(model, splits, device),
    }
    if context.settings.keep_stopped:
        columns["path"], columns["sha256"] = context.recorder.upload(trial.index, unique_state(model))
    return columns


def paced(
    write: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.monotonic
) -> Callable[[dict[str, Any]], None]:
    """``write`` at the first call, then as often as leaves it a tenth of the time (``clock``: seconds)."""
    # Calls are left out until ten times as long as the last write took has passed since it began.
    last_start, last_seconds = clock(), 0.0

    def write_if_due(state: dict[str, Any]) -> None:
        nonlocal last_start, last_seconds
        if clock() - last_start >= last_seconds / _SAVING_SHARE:
            last_start = clock()
            write(state)
            last_seconds = clock() - last_start

    return write_if_due


def save_state(storage: Storage, state: dict[str, Any]) -> None:
    """Keep the state after an epoch in place of earlier ones, which stand where the store is away."""
    name = f"epoch-{state['epoch']:05d}.pt"
    with contextlib.suppress(StoreAway):
        with storage.writing(name) as file:
            torch.save(state, file)
        for other in _state_names(storage):
            if other != name:
                storage.delete(other)


def load_state(storage: Storage) -> dict[str, Any] | None:
    """The last state that was saved, None if none was; one that is damaged gives way to the one before."""
    for name in reversed(_state_names(storage)):
        with storage.reading(name) as file, contextlib.suppress(RuntimeError, EOFError):
            if file is not None:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return state
    return None


def _state_names(storage: Storage) -> list[str]:
    """The files of saved states by epoch: two of them where the writer died before it removed the earlier."""
    return [name for name in storage.names() if name.startswith("epoch-")]


def outcome(trial: Trial, context: TrialContext, **columns: Any) -> IngredientRecord:
    """The record of a trial that ended with these ``columns``, and the cost of all its attempts."""
    attempts = read_attempts(context.storage_of(trial))
    on_cpu = [attempt.hours for attempt in attempts if attempt.device == "cpu"]
    on_gpu = [attempt.hours for attempt in attempts if attempt.device != "cpu"]
    return IngredientRecord(
        trial_index=trial.index,
        gpu_hours=sum(on_gpu or on_cpu),
        cpu_core_hours=sum(on_cpu) if on_gpu and on_cpu else None,  # a sweep that went on on another cluster
        attempts=len(attempts),
        device=" and ".join(dict.fromkeys(attempt.device for attempt in attempts))
        or ("GPU" if context.use_gpu else "cpu"),
        theta0_sha256=context.theta0_sha256,
        **{"images_seen": 0, **columns},
        **trial.hyper.given,
    )
