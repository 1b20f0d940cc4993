"""Soups that a stage needs: those that are there already, and the missing ones built and remembered."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pipeline.records import (
    IngredientRecord,
    ModelDescription,
    PredictionRecord,
    SoupRecord,
    cumulative_gpu_hours,
)
from pipeline.records.tables import write_table
from pipeline.soup_task import SoupContext, SoupRequest, SoupResult, build_soups, soup_key
from pipeline.soups import METHODS
from pipeline.stages.context import Run
from pipeline.stages.state import BuiltSoup, save_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A soup that was built, and the name that it is remembered by."""

    name: str
    record: SoupRecord

    @property
    def predictions(self) -> str:
        """Where its predictions are, in the run's folder."""
        return f"predictions/{self.name}.parquet"


def soup_context(run: Run, rows: Sequence[IngredientRecord], description: ModelDescription | None) -> SoupContext:
    """What the soup tasks of the run share; soups are registered where there is a ``description``."""
    config = run.config
    return SoupContext(
        sweep=run.sweep,
        splits=run.splits_ref,
        build_model=run.build_model(),
        val_accuracies={row.trial_index: row.val_accuracy for row in rows if row.val_accuracy is not None},
        sha256s={row.trial_index: row.sha256 for row in rows},
        include_initialization=config.soup.include_initialization,
        shifts={name: str(path) for name, path in config.data.shifts.items()},
        device=run.cluster.device,
        skip_damaged=config.soup.damaged == "skip",
        description=description,
    )


def soup_request(run: Run, method: str, trial_indices: tuple[int, ...], gpu_hours: float) -> SoupRequest:
    """A soup with the settings of the run, where it gives none with the defaults."""
    settings = METHODS[method].settings(run.config.soup.settings.get(method, {}))
    return SoupRequest(
        method=method,
        trial_indices=trial_indices,
        gpu_hours=gpu_hours,
        settings={} if settings is None else asdict(settings),
        seed=run.config.seed,
    )


def whole_sweep(run: Run, rows: Sequence[IngredientRecord], method: str) -> SoupRequest:
    """The soup of all finished trials."""
    everything = tuple(row.trial_index for row in rows if row.status == "finished")
    return soup_request(run, method, everything, cumulative_gpu_hours(rows, len(everything)))


def built_soups(run: Run, context: SoupContext, requests: Mapping[str, SoupRequest]) -> dict[str, Built]:
    """Those of the named ``requests`` that were built before, from the same ingredients, settings and seed.

    A soup that was built under another name counts too.
    """
    by_key: dict[str, Built] = {}
    for name, remembered in run.state.soups.items():
        built = Built(name, remembered.record)
        if run.path(built.predictions).exists() and (remembered.key not in by_key or name in requests):
            by_key[remembered.key] = built
    found = {}
    for name, request in requests.items():
        if built_as := by_key.get(soup_key(context, request)):
            record = built_as.record.model_copy(update={"gpu_hours": request.gpu_hours})
            found[name] = replace(built_as, record=record)
    return found


def new_soups(
    run: Run, context: SoupContext, requests: Mapping[str, SoupRequest], tasks: int
) -> Iterator[tuple[str, SoupResult, Built]]:
    """Build the named ``requests`` in so many Ray ``tasks``, write their predictions, yield them as they come.

    A soup is remembered when its consumer asks for the next: then its files are written.
    """
    said: set[str] = set()
    names = list(requests)
    for place, result in build_soups(context, list(requests.values()), run.cluster.cpus, tasks):
        name = names[place]
        # Until all its files are written it does not count: those of an earlier soup may be half replaced.
        run.state.soups.pop(name, None)
        save_state(run.config, run.state)
        for reason in result.left_out:
            if reason not in said:
                said.add(reason)
                logger.info("soup: left out: %s", reason)
        built = Built(name, result.record)
        write_table(run.path(built.predictions), result.predictions, PredictionRecord)
        yield name, result, built
        if not result.left_out:  # a restored file makes another soup
            run.state.soups[name] = BuiltSoup(key=soup_key(context, requests[name]), record=result.record)
            save_state(run.config, run.state)
