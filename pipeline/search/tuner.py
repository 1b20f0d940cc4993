"""Runs trials with Ray Tune."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ray import tune
from ray.tune.execution import class_cache

from pipeline.cluster import current_cluster, trials_at_once
from pipeline.errors import SearchError
from pipeline.records import IngredientRecord
from pipeline.search.attempts import read_attempts
from pipeline.search.early import Asha
from pipeline.search.order import Beside, Looking, SearchOrder
from pipeline.search.progress import Progress, reason_of
from pipeline.search.sampling import Trial
from pipeline.search.trial import TrialContext, outcome, run_trial

logger = logging.getLogger(__name__)

_AGAIN = "give the same command again to go on"
_NO_SPACE = os.strerror(errno.ENOSPC)
_STORAGE = "search.storage: "  # in the errors of a store that is away
_LOW_ON_MEMORY = "running low on memory"  # in the words of Ray's memory monitor; Tune gives up the sweep then
_SETTINGS_OF_TUNE = {
    # Our own lines replace Tune's tables and tracebacks; its log files of every trial would repeat the records.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "200",  # which wait for room or start: what an autoscaler reacts to
    # Its own handler of Ctrl-C makes `fit` return as if the sweep were complete.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def run_trials(
    context: TrialContext, recorded: Sequence[IngredientRecord], experiment: str, beside: Beside | None = None
) -> None:
    """Run the trials of ``context`` that are not ``recorded`` yet, as many at once as the cluster holds.

    ``beside`` is what goes on beside them; once that has a reason to stop, only trials that had begun are run to their
    end.

    A crashed trial is tried again ``max_failures`` times from its last saved epoch and then recorded as failed; the
    sweep goes on. When Ray kills trials because a node runs low on memory, it goes on with half as many at a time; one
    that is killed alone has crashed. Trials that share a GPU with too little memory for them are tried again with twice
    as much of one. Raises SearchError when Tune itself stops, a disk is full or the storage is away; the same call then
    goes on with what is left.
    """
    os.environ.update(_SETTINGS_OF_TUNE)
    # Tune would give trials the driver's variables of this name by way of Ray's logs, which everybody can read. Workers
    # of a local Ray inherit them; nodes of a cluster have their own.
    class_cache.ENV_VARS_TO_PROPAGATE -= {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}

    def is_ending() -> bool:
        return beside is not None and beside.reason is not None

    progress = Progress(recorded, {trial.index: trial.hyper for trial in context.trials}, context.name, is_ending)
    # Usually one round: `_fit` returns when every trial has ended. Where memory runs out, trials are left over, and the
    # next round, an experiment of its own for Tune, runs what `progress` has not seen ended.
    concurrency: int | None = None  # as many as fit
    number = 0
    while pending := _pending(context, progress.rows, only_begun=is_ending()):
        progress.failed.clear()
        progress.crowded.clear()
        try:
            _fit(context, pending, concurrency, progress, f"{experiment}-{number}", beside)
        except (RuntimeError, tune.TuneError) as error:
            if _LOW_ON_MEMORY not in str(error) or not progress.running:
                raise SearchError(f"the sweep stopped: {reason_of(error)}; {_AGAIN}") from error
            concurrency = _reduced_concurrency(context, progress)
        else:
            _record_failed(context, progress)
            if not progress.crowded:
                break
            context = _with_more_of_a_gpu(context, progress)
        number += 1


def _record_failed(context: TrialContext, progress: Progress) -> None:
    causes = progress.failed.values()
    if reasons := [reason_of(cause) for cause in causes if _NO_SPACE in cause]:
        # No fault of the trials: they are left to be gone on with, not recorded as failed.
        raise SearchError(
            f"the disk is full ({reasons[0]}); finished ingredients are kept. Free some space and {_AGAIN}"
        )
    if reasons := [reason_of(cause) for cause in causes if _STORAGE in cause]:
        raise SearchError(reasons[0])
    for index, cause in progress.failed.items():
        _record_failure(context, progress, context.trial(index), reason_of(cause))


def _with_more_of_a_gpu(context: TrialContext, progress: Progress) -> TrialContext:
    # Fewer at a time would not do: Ray fills one GPU before it gives out the next.
    reserved = min(2 * context.reserved, 1.0)
    indices = ", ".join(map(str, sorted(progress.crowded)))
    message = "search: a GPU that trials share ran out of memory (trial %s); going on with %g of a GPU for each"
    logger.info(message, indices, reserved)
    return replace(context, reserved=reserved)


def _pending(context: TrialContext, rows: Sequence[IngredientRecord], *, only_begun: bool) -> list[int]:
    """The indices of trials without a row; Tune knows trials by these numbers."""
    recorded_indices = {row.trial_index for row in rows}
    return [
        trial.index
        for trial in context.trials
        if trial.index not in recorded_indices and (not only_begun or read_attempts(context.storage_of(trial)))
    ]


def _fit(
    context: TrialContext,
    pending: Sequence[int],
    concurrency: int | None,
    progress: Progress,
    experiment: str,
    beside: Beside | None,
) -> None:
    """Let Tune run the trials of these indices, ``concurrency`` at a time; raises what Tune does when it gives up."""
    order = SearchOrder(context.suggest, pending, lambda: progress.rows, beside, partial(_room, context, beside))
    looking = [] if beside is None else [Looking(lambda: progress.rows, beside)]
    settings = context.settings
    resources: dict[str, float] = {"cpu": settings.cpus_per_trial, "gpu": context.reserved if context.use_gpu else 0}
    if context.only_node is not None:
        resources[f"node:{context.only_node}"] = 0.001
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, context=context), resources),
        tune_config=tune.TuneConfig(
            search_alg=order,
            scheduler=Asha(context) if settings.scheduler == "asha" else None,
            num_samples=len(pending),
            reuse_actors=beside is None,
            max_concurrent_trials=concurrency,
        ),
        run_config=tune.RunConfig(
            name=experiment,
            storage_path=str(context.experiments),
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            callbacks=[progress, *looking],
            verbose=0,
        ),
    )
    tuner.fit()  # `progress` is told of everything; results are silent on trials that ended before they began


def _room(context: TrialContext, beside: Beside | None) -> int:
    """How many trials may be under way: all where nothing decides of the next one, and none must make room."""
    if beside is None and context.settings.algorithm == "random":
        return len(context.trials)
    cpus = context.settings.cpus_per_trial
    return trials_at_once(current_cluster(), cpus, context.reserved if context.use_gpu else 0)


def _reduced_concurrency(context: TrialContext, progress: Progress) -> int:
    """How many trials to run at a time now that all that were running were killed for want of memory."""
    # Half of those that were running. They stay pending, so the next round tries them again. One that was alone cannot
    # get more memory: Tune counts no failures across rounds, so its attempts are counted here, and after too many it is
    # recorded as failed, which takes it out of the pending ones.
    killed = sorted(progress.running)
    progress.running.clear()
    concurrency = max(1, len(killed) // 2)
    indices = ", ".join(map(str, killed))
    message = "search: a node ran low on memory (running: trial %s); going on with %d at a time"
    logger.info(message, indices, concurrency)
    if len(killed) == 1:
        trial = context.trial(killed[0])
        if len(read_attempts(context.storage_of(trial))) > context.settings.max_failures:
            _record_failure(context, progress, trial, "the node ran low on memory although no other trial was running")
    return concurrency


def _record_failure(context: TrialContext, progress: Progress, trial: Trial, reason: str) -> None:
    row = outcome(trial, context, status="failed", reason=reason)
    context.recorder.record(row)
    progress.tell(row)
