"""What goes on beside the trials: soups of those so far (`study.cost_accuracy.live`), and the rule that ends a sweep.

Nothing here harms the sweep: a soup that fails, or is killed, and a store that is away cost a line in the log, and the
study after the sweep builds and records what is missing.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, takewhile

from pipeline.errors import RegistryError, first_line
from pipeline.gauges import show_soup
from pipeline.models import describe_model
from pipeline.records import CostRecord, Hyperparameters, IngredientRecord, cost_unit
from pipeline.registry import MlflowException, describe, log_costs, note_stop, set_champion
from pipeline.report import point_line, points_table
from pipeline.soup_task import SoupContext, SoupResult, build_beside
from pipeline.stages.building import (
    keep_also_as,
    keep_soup,
    missing_soups,
    remembered_soups,
    soup_context,
    soup_for,
    tell_left_out,
)
from pipeline.stages.context import Run
from pipeline.stages.state import Stopped, left_out, save_state, stop_rule, with_left_out
from pipeline.stages.study import study_inputs
from pipeline.studies import CostPoint, StudyInputs, cost_rows, no_more_gain, over_budget, points_so_far

logger = logging.getLogger(__name__)

_STUDY = "cost-accuracy"
_LOWEST = (-2.0, -2.0)  # of `SoupRecord.rank`: below any score


class Live:
    """See `pipeline.search.order.Beside`; ``num_trials`` are all that the sweep has.

    Soups are built one after the other in a task that takes the place of a trial. ``reason`` is known from the start
    where an earlier call ended the sweep by the same rule.
    """

    # Whenever another trial has ended, `look` asks the study for the points of the trials so far. Those that were not
    # asked for go together into one generator, `_build`, which each further `look` moves on by a step: it says False
    # while its task waits for room, True while it works, and is at its end when their soups are kept.

    def __init__(self, run: Run, num_trials: int) -> None:
        self._run, self._num_trials = run, num_trials
        self._sweep = replace(run.sweep, patience=0.0)  # Tune's loop waits for nobody
        self._is_live = bool(run.config.study_settings(_STUDY).live)
        self._rule = run.config.search.stop
        stopped = run.state.stopped
        self.reason = stopped.reason if stopped and stopped.rule == stop_rule(run.config) else None
        self._looked_at = -1  # so many ended trials
        self._asked: set[str] = set()  # points by name
        self._told: set[str] = set()  # which damaged ingredients are left out
        self._building: Iterator[bool] | None = None
        self._points: list[CostRecord] = []  # of the soups that are there

    def look(self, rows: Sequence[IngredientRecord]) -> bool:
        """No trial begins while a soup that is due waits for room."""
        if self._building is None and self._is_live and len(rows) != self._looked_at:
            self._looked_at = len(rows)
            inputs = self._inputs(rows)
            if due := self._due(inputs):
                self._asked |= {point.name for point in due}
                self._building = self._build(inputs, due)
        if self._building is None:
            return True
        try:
            return next(self._building)
        except StopIteration:
            pass
        except Exception as error:  # whatever a method, a disk or a store comes up with
            logger.warning("live: %s; the sweep goes on, and the study builds what is missing", first_line(error))
        self._building = None
        return self.look(rows)

    def decide(
        self, rows: Sequence[IngredientRecord], under_way: Sequence[Hyperparameters], upcoming: Hyperparameters
    ) -> None:
        """End the sweep where its rule says so, once and for all."""
        price = self._run.config.report.price_per_gpu_hour
        self.reason = no_more_gain(self._rule, self._points)
        self.reason = self.reason or over_budget(self._rule, price, rows, under_way, upcoming)
        if self.reason is not None:
            self._run.state.stopped = Stopped(rule=stop_rule(self._run.config), reason=self.reason)
            save_state(self._run.folder, self._run.state)
            with contextlib.suppress(RegistryError, MlflowException):  # said again when the stage is done
                note_stop(self._sweep, self.reason)
            logger.info("search: no more trials begin: %s", self.reason)

    def finish(self, rows: Sequence[IngredientRecord]) -> None:
        """Build what is due when all trials have ended."""
        while not self.look(rows) or self._building is not None:
            time.sleep(0.1)

    def _inputs(self, rows: Sequence[IngredientRecord]) -> StudyInputs:
        """What the study may look at now: the trials up to the first, in search order, that has not ended."""
        by_index = {row.trial_index: row for row in rows}
        ended = [by_index[index] for index in takewhile(by_index.__contains__, count())]
        names = left_out(self._run.config, self._run.state)
        return study_inputs(self._run, _STUDY, with_left_out(ended, names))

    def _due(self, inputs: StudyInputs) -> list[CostPoint]:
        """The points that were not asked for, but soups of all trials that the soup stage builds, which comes next."""
        have_ended = len(inputs.ingredients) == self._num_trials
        by_stage = {
            f"{_STUDY}/{method}-{len(inputs.finished)}" for method in self._run.config.soup.methods if have_ended
        }
        points = points_so_far(inputs, have_ended=have_ended)
        return [point for point in points if point.name not in self._asked | by_stage]

    def _build(self, inputs: StudyInputs, due: Sequence[CostPoint]) -> Iterator[bool]:
        """Build and record the soups of the points ``due``; yields as `build_beside` while there is nothing new."""
        run, requests = self._run, {point.name: point.request for point in due}
        soups = remembered_soups(run, requests, under_any_name=True)  # by key
        for name, request in requests.items():
            if request.key in soups and not soups[request.key].name.startswith(_STUDY):
                soups[request.key] = keep_also_as(run, name, request.key, soups[request.key])
        context = self._context(inputs)
        wanted = missing_soups(context, requests, soups, "live")
        if wanted:
            cpus, reserved = run.cluster.cpus_per_task, run.config.search.cpus_per_trial
            for built in build_beside(context, wanted, cpus, reserved):
                if isinstance(built, bool):
                    yield built
                    continue
                name, result = built
                tell_left_out(result, "live", self._told)
                key = wanted[name].key
                show_soup(run.config.name, result.record.method, result.record)
                soups[key] = keep_soup(run, name, key, result, "live: %s", self._name_champion)
        self._record(inputs, [point.record(soup_for(soups[point.request.key], point.request)) for point in due])

    def _context(self, inputs: StudyInputs) -> SoupContext:
        """Soups that are better than all that are registered are registered too."""
        run = self._run
        described = describe_model(run.config.model, run.config.data, run.splits.class_names)
        return replace(soup_context(run, inputs.ingredients, described), better_than=self._best())

    def _best(self) -> tuple[float, float]:
        """The rank of the best model that is registered: of an earlier soup stage, or of an earlier point."""
        named = ((name, soup) for name, soup in self._run.state.soups.items() if soup.run_id is not None)
        models = (soup for name, soup in named if name.startswith(_STUDY) or self._run.folder.soup(name).exists())
        return max((soup.record.rank for soup in models), default=_LOWEST)

    def _name_champion(self, name: str, result: SoupResult) -> None:
        """Point the alias at a soup that was registered, unless one that was built beside it is better still."""
        if result.run_id is not None and result.record.rank > self._best():
            with contextlib.suppress(RegistryError, MlflowException):
                set_champion(self._sweep, result.record.method, result.run_id)

    def _record(self, inputs: StudyInputs, points: Sequence[CostRecord]) -> None:
        """Tell of new points, and show the curve so far in MLflow."""
        run, unit = inputs.run, cost_unit(inputs.ingredients)
        in_order = sorted([*self._points, *points], key=lambda point: (point.method, point.num_ingredients))
        self._points = cost_rows(inputs, in_order)
        for method in dict.fromkeys(point.method for point in points):
            logger.info("live: %s", point_line(run, [row for row in self._points if row.method == method], unit))
        with contextlib.suppress(RegistryError, MlflowException):  # the next point, or the study, logs it all
            log_costs(self._sweep, run.theta0_figures, self._points, is_complete=False)
            describe(self._sweep, "The sweep runs; soups of its trials so far:", points_table(self._points, unit))
