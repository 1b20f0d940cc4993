"""Trials that end early, because Tune's scheduler sees no future in them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from pipeline.files import write_text
from pipeline.search.trial import SCORE, TrialContext, ask_to_stop

_FAR = 4**8  # epochs: ASHA is to be told of an end, and which trial has the most is not known


class Asha(FIFOScheduler):  # type: ignore[misc]
    """Tune's ASHA, whose decisions trials carry out themselves: so they are measured, counted and recorded as others.

    What trials reported is kept in ``context.reports`` and told to ASHA again when a sweep goes on: it decides as if it
    had never been interrupted.
    """

    # Tune ends a trial by ending its process. Here it is let go on, and finds in its storage that it is to end.

    def __init__(self, context: TrialContext) -> None:
        super().__init__()
        self._context = context
        self._asha = ASHAScheduler("epoch", metric=SCORE, mode="max", max_t=_FAR, stop_last_trials=False)
        self._reports: list[tuple[int, int, float]] = []  # trial, epoch, score
        self._stops: dict[int, dict[int, bool]] = {}  # of each trial what was decided after which epoch
        path = context.reports
        for report in json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else ():
            self._decide(*report)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Called by Tune in the driver, after every epoch."""
        if SCORE in result:
            index = trial.config["trial"]
            stops = self._decide(index, result["epoch"], result[SCORE])
            if stops:
                ask_to_stop(self._context.storage_of(self._context.drawn(index)))
            if self._context.reports is not None:
                write_text(self._context.reports, json.dumps(self._reports))
        return str(TrialScheduler.CONTINUE)

    def _decide(self, index: int, epoch: int, score: float) -> bool:
        """Whether a trial is to end after an epoch; once decided, it stands: one tried again reports epochs again."""
        known_as = SimpleNamespace(trial_id=str(index))  # Tune's own id is another in every call
        if index not in self._stops:
            self._asha.on_trial_add(None, known_as)
            self._stops[index] = {}
        decided = self._stops[index]
        if epoch not in decided:
            decision = self._asha.on_trial_result(None, known_as, {"epoch": epoch, SCORE: score})
            decided[epoch] = bool(decision == TrialScheduler.STOP)
            self._reports.append((index, epoch, score))
        return decided[epoch]

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as `SearchOrder`
