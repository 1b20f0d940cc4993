"""Runs trials with Ray Tune."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from ray import tune

from pipeline.errors import SearchError
from pipeline.records import IngredientRecord
from pipeline.search.progress import Progress
from pipeline.search.trial import TrialContext, outcome, run_trial

_AGAIN = "give the same command again to go on"
_NO_SPACE = os.strerror(errno.ENOSPC)
_SETTINGS_OF_TUNE = {
    # Our own progress line replaces Tune's tables; its log files of every trial would repeat the records.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "auto",
    # Its own handler of Ctrl-C makes `fit` return as if the sweep were complete.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def run_trials(context: TrialContext, recorded: Sequence[IngredientRecord], experiment: str) -> None:
    """Run the trials of ``context`` that are not ``recorded`` yet, as many at once as the cluster holds.

    A crashed trial is tried again ``max_failures`` times from its last epoch and then recorded as failed; the sweep
    goes on. Raises SearchError when Tune itself stops or a disk is full; the same call then goes on with what is left.
    """
    done = {row.trial_index for row in recorded}
    pending = [place for place, trial in enumerate(context.trials) if trial.index not in done]
    if not pending:
        return
    os.environ.update(_SETTINGS_OF_TUNE)
    settings = context.settings
    resources = {"cpu": settings.cpus_per_trial, "gpu": context.reserved if context.use_gpu else 0}
    progress = Progress(recorded, len(context.trials), context.name)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, context=context), resources),
        param_space={"trial": tune.grid_search(pending)},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(
            name=experiment,
            storage_path=str(context.storage),
            failure_config=tune.FailureConfig(max_failures=settings.max_failures),
            callbacks=[progress],
            verbose=0,
        ),
    )
    try:
        results = tuner.fit()
    except (RuntimeError, tune.TuneError) as error:
        raise SearchError(f"the sweep stopped: {_reason(error)}; {_AGAIN}") from error
    failed = [result for result in results if result.error is not None]
    if full := [_reason(result.error) for result in failed if _NO_SPACE in str(result.error)]:
        # No fault of the trials: they are left to be gone on with, not recorded as failed.
        raise SearchError(f"the disk is full ({full[0]}); finished ingredients are kept. Free some space and {_AGAIN}")
    for result in failed:
        trial = context.trials[result.config["trial"]]
        row = outcome(trial, context, status="failed", reason=_reason(result.error))
        context.recorder.record(row)
        progress.tell(row)


def _reason(error: BaseException) -> str:
    """The first line of the innermost exception in a traceback of Ray's, else the last line; not too long for a tag."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    said = [line for line in lines[frames[-1] :] if not line[0].isspace()] if frames else lines[-1:]
    return next(iter(said or lines[-1:]), type(error).__name__).strip()[:500]
