"""Runs trials with Ray Tune and tells how the sweep gets on."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection
from typing import Any

from ray import tune

from pipeline.errors import SearchError
from pipeline.records import IngredientRecord, cost_unit
from pipeline.search.trial import TrialContext, outcome, run_trial

logger = logging.getLogger(__name__)

_SETTINGS_OF_TUNE = {
    # Our own progress line replaces Tune's tables; its log files of every trial would repeat the records.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "auto",
    # Its own handler of Ctrl-C makes `fit` return as if the sweep were complete.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


def run_trials(context: TrialContext, recorded: Collection[int], experiment: str) -> None:
    """Run the trials of ``context`` whose index is not ``recorded`` yet, as many at once as the cluster holds.

    A crashed trial is tried again ``max_failures`` times from its last epoch and then recorded as failed; the sweep
    goes on. Raises SearchError when Tune itself stops; the same call then goes on with what is left.
    """
    pending = [place for place, trial in enumerate(context.trials) if trial.index not in recorded]
    if not pending:
        return
    os.environ.update(_SETTINGS_OF_TUNE)
    settings = context.settings
    resources = {"cpu": settings.cpus_per_trial, "gpu": context.reserved if context.use_gpu else 0}
    progress = _Progress(done=len(context.trials) - len(pending), total=len(context.trials))
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
        raise SearchError(f"the sweep stopped: {_reason(error)}; give the same command again to go on") from error
    for result in results:
        if result.error is not None:
            trial = context.trials[result.config["trial"]]
            row = outcome(trial, context, status="failed", reason=_reason(result.error))
            context.recorder.record(row)
            progress.tell(row)


class _Progress(tune.Callback):  # type: ignore[misc]
    """A line per ended trial: what came out, what it cost, how long the rest may take."""

    def __init__(self, done: int, total: int) -> None:
        self._resumed, self._done, self._total = done, done, total
        self._start = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune in the driver."""
        if row := trial.last_result.get("row"):
            self.tell(IngredientRecord.model_validate_json(row))

    def tell(self, row: IngredientRecord) -> None:
        """Log the line of ``row``."""
        self._done += 1
        elapsed = time.monotonic() - self._start
        left = elapsed / (self._done - self._resumed) * (self._total - self._done)
        said = f"validation {row.val_accuracy:.2%}" if row.val_accuracy is not None else f"{row.status}: {row.reason}"
        logger.info(
            "trial %d: %s, lr %.1e, %d epochs, %.3g %s (%d of %d done, about %s left)",
            row.trial_index, said, row.lr, row.epochs, row.gpu_hours, cost_unit([row]),
            self._done, self._total, f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min",
        )  # fmt: skip


def _reason(error: BaseException) -> str:
    """The first line of the innermost exception in a traceback of Ray's, else the last line; not too long for a tag."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    said = [line for line in lines[frames[-1] :] if not line[0].isspace()] if frames else lines[-1:]
    return next(iter(said or lines[-1:]), type(error).__name__).strip()[:500]
