"""What runs in a Tune worker: one trial, resumed from its last saved epoch, recorded once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
import torch
from ray import tune
from torch import Tensor, nn

from pipeline.config import SearchConfig
from pipeline.errors import TrialRejected
from pipeline.finetune import TRAINERS
from pipeline.records import EpochRecord, Hyperparameters, IngredientRecord
from pipeline.search.attempts import read_attempts, timed_attempt
from pipeline.search.sampling import Trial
from pipeline.search.storage import Storage, StoreAway
from pipeline.weights import load_weights, unique_state

_SAVING_SHARE = 0.1  # of a trial's time may go into saving: states of large models on object stores take seconds
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
    address of the one node that trials may run on.
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

    def kept(self, trial: Trial) -> Storage:
        """Where the unfinished state and the attempts of ``trial`` are kept."""
        return self.storage.child(f"trial-{trial.index:05d}")


def run_trial(config: dict[str, Any], context: TrialContext) -> None:
    """Fine-tune, upload and record the trial ``config["trial"]``, counted among ``context.trials``.

    Every epoch is reported to Tune and, as `paced` allows, saved; an attempt that finds a saved epoch goes on from it.
    """
    trial = context.trials[config["trial"]]
    kept = context.kept(trial)
    unlogged: list[EpochRecord] = []
    logged = time.monotonic()

    def log_epochs() -> None:
        nonlocal logged
        context.recorder.log_epochs(trial.index, tuple(unlogged))
        unlogged.clear()
        logged = time.monotonic()

    save = paced(lambda state: save_state(kept, state))

    def on_epoch(went: EpochRecord, state: dict[str, Any]) -> None:
        save(state)
        unlogged.append(went)
        if time.monotonic() - logged > _LOG_SECONDS:
            log_epochs()
        tune.report({"epoch": went.epoch})

    device, node = torch.cuda.get_device_name() if context.use_gpu else "cpu", ray.util.get_node_ip_address()
    with timed_attempt(kept, device, context.reserved, node):
        try:
            context.recorder.begin(trial.index, trial.hyper)
            torch.set_num_threads(context.settings.cpus_per_trial)
            model = context.build_model()
            load_weights(model, ray.get(context.theta0), source="theta0")
            done = TRAINERS[context.settings.trainer].train(
                model,
                ray.get(context.splits),
                trial.hyper,
                context.settings,
                device="cuda" if context.use_gpu else "cpu",
                resume=load_state(kept),
                on_epoch=on_epoch,
            )
            path, sha256 = context.recorder.upload(trial.index, unique_state(model))
            ended = {"status": "finished", **vars(done), "path": path, "sha256": sha256}
        except TrialRejected as rejection:
            ended = {"status": "rejected", "reason": str(rejection)}
        log_epochs()
    row = outcome(trial, context, **ended)
    context.recorder.record(row, node=node)
    kept.remove()
    tune.report({"row": row.model_dump_json()})


def paced(
    write: Callable[[dict[str, Any]], None], clock: Callable[[], float] = time.monotonic
) -> Callable[[dict[str, Any]], None]:
    """``write`` at the first call, then as often as leaves it a tenth of the time (``clock``: seconds)."""
    begun, took = clock(), 0.0

    def perhaps(state: dict[str, Any]) -> None:
        nonlocal begun, took
        if clock() - begun >= took / _SAVING_SHARE:
            begun = clock()
            write(state)
            took = clock() - begun

    return perhaps


def save_state(kept: Storage, state: dict[str, Any]) -> None:
    """Keep the state after an epoch in place of earlier ones, which stand where the store is away."""
    name = f"epoch-{state['epoch']:05d}.pt"
    with contextlib.suppress(StoreAway):
        with kept.writing(name) as file:
            torch.save(state, file)
        for other in _states(kept):
            if other != name:
                kept.delete(other)


def load_state(kept: Storage) -> dict[str, Any] | None:
    """The last state that was saved, None if none was; one that is damaged gives way to the one before."""
    for name in reversed(_states(kept)):
        with kept.reading(name) as file, contextlib.suppress(RuntimeError, EOFError):
            if file is not None:
                state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
                return state
    return None


def _states(kept: Storage) -> list[str]:
    return [name for name in kept.names() if name.startswith("epoch-")]


def outcome(trial: Trial, context: TrialContext, **ended: Any) -> IngredientRecord:
    """The record of a trial that ``ended`` so, with the cost of all its attempts."""
    attempts = read_attempts(context.kept(trial))
    return IngredientRecord(
        trial_index=trial.index,
        gpu_hours=sum(attempt.hours for attempt in attempts),
        attempts=len(attempts),
        device=" and ".join(dict.fromkeys(attempt.device for attempt in attempts))
        or ("GPU" if context.use_gpu else "cpu"),
        theta0_sha256=context.theta0_sha256,
        **{"images_seen": 0, **ended},
        **trial.hyper.model_dump(),
    )
