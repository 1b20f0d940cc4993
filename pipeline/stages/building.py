"""Soups that a stage needs, one way for all of them: requests -> what is there -> build -> keep."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict

from pipeline.config import Config
from pipeline.files import replacing
from pipeline.records import IngredientRecord, ModelDescription, Precision, PredictionRecord
from pipeline.records.folder import predictions_path
from pipeline.records.tables import write_table
from pipeline.soup_requests import RequestedIngredient, SoupRequest
from pipeline.soup_task import SoupContext, SoupResult, build_soups, unfinished_soup
from pipeline.soups import METHODS, blocks_done
from pipeline.stages.context import Run
from pipeline.stages.state import RememberedSoup, save_state
from pipeline.studies import BuiltSoup

logger = logging.getLogger(__name__)


def soup_context(
    run: Run, rows: Sequence[IngredientRecord], description: ModelDescription | None = None
) -> SoupContext:
    """What the soup tasks of the run share; soups are registered where there is a ``description``."""
    return SoupContext(
        sweep=run.sweep,
        splits=run.splits_ref,
        build_model=run.build_model(),
        val_scores={row.trial_index: row.val_score for row in rows if row.val_score is not None},
        device=run.cluster.device,
        skip_damaged=run.config.soup.damaged == "skip",
        description=description,
        unfinished=run.unfinished_soups,
    )


def soup_request(
    config: Config,
    precision: Precision,
    rows: Sequence[IngredientRecord],
    method: str,
    trial_indices: Sequence[int],
    gpu_hours: float,
) -> SoupRequest:
    """A soup of these trials of ``rows`` with the settings and in the arithmetic of the run."""
    given_to, methods = config.soup.settings, METHODS[method].parts
    settings = METHODS[method].settings(given_to.get(method, {}))
    of_parts = {part: METHODS[part].settings(given_to.get(part, {})) for part in methods}
    settings_of = {part: asdict(values) for part, values in of_parts.items() if values != METHODS[part].defaults}
    sha256s = {row.trial_index: row.sha256 for row in rows}
    return SoupRequest(
        method=method,
        ingredients=tuple(RequestedIngredient(index, sha256s[index]) for index in trial_indices),
        gpu_hours=gpu_hours,
        settings={} if settings is None else asdict(settings),
        seed=config.seed,
        include_initialization=config.soup.include_initialization,
        shifts={name: str(path) for name, path in config.data.shifts.items()},
        settings_of=settings_of,
        precision=precision,
        metric=config.data.metric,
    )


def obtain_soups(
    run: Run,
    context: SoupContext,
    requests: Mapping[str, SoupRequest],
    *,
    tasks: int,
    under_any_name: bool,
    stage: str,
    keep: Callable[[str, SoupResult], None] = lambda name, result: None,
) -> dict[str, BuiltSoup]:
    """The soups of the named ``requests``: those that are there, and the missing ones, built in so many Ray ``tasks``.

    Requests with the same key are the same soup, built once. One that was built before counts as there under its own
    name, or ``under_any_name`` (soups of studies, which go by other names, are not registered). ``keep`` writes what
    the caller wants of a new soup; then the soup is remembered, so that a killed stage keeps those it has finished, and
    the log of the ``stage`` tells of it. Raises PipelineError.
    """
    soups = remembered_soups(run, requests, under_any_name=under_any_name)  # by key
    wanted = missing_soups(context, requests, soups, stage)
    told: set[str] = set()
    for number, (name, result) in enumerate(build_soups(context, wanted, run.cluster.cpus_per_task, tasks), start=1):
        tell_left_out(result, stage, told)
        key = requests[name].key
        soups[key] = keep_soup(run, name, key, result, f"{stage}: %s ({number} of {len(wanted)})", keep)
    return {name: soup_for(soups[request.key], request) for name, request in requests.items()}


def missing_soups(
    context: SoupContext, requests: Mapping[str, SoupRequest], soups: Collection[str], stage: str
) -> dict[str, SoupRequest]:
    """Those of ``requests`` whose key is not among ``soups``, each key once; the log tells which go on."""
    missing = {request.key: name for name, request in requests.items() if request.key not in soups}
    wanted = {name: requests[name] for name in missing.values()}
    for name, request in wanted.items():
        if (blocks := blocks_done(unfinished_soup(context.unfinished, request))) is not None:
            logger.info("%s: %s goes on after block %d", stage, name, blocks)
    return wanted


def tell_left_out(result: SoupResult, stage: str, told: set[str]) -> None:
    """Log which damaged ingredients a soup lacks, but those that were ``told`` of."""
    for reason in result.left_out:
        if reason not in told:
            told.add(reason)
            logger.info("%s: left out: %s", stage, reason)


def keep_soup(
    run: Run, name: str, key: str, result: SoupResult, line: str, keep: Callable[[str, SoupResult], None]
) -> BuiltSoup:
    """Write what there is of a new soup, remember it by ``key``, and log a ``line`` with what it came to for its %s."""
    # Until all its files are written it does not count: those of an earlier soup may be half replaced.
    run.state.soups.pop(name, None)
    save_state(run.folder, run.state)
    built = BuiltSoup(name, result.record, predictions_path(name))
    write_table(run.path(built.predictions), result.predictions, PredictionRecord)
    keep(name, result)
    # Once the damaged files are restored it is another soup.
    key += " without damaged ones" if result.left_out else ""
    run.state.soups[name] = RememberedSoup(key=key, record=result.record, run_id=result.run_id)
    save_state(run.folder, run.state)
    row = result.record
    selected, seconds = f"{row.num_selected} of {row.num_ingredients} ingredients", f"{row.construction_seconds:.1f} s"
    logger.info(line, f"{name}: validation {100 * row.val_score:.2f}%, {selected}, {seconds}")
    return built


def keep_also_as(run: Run, name: str, key: str, built: BuiltSoup) -> BuiltSoup:
    """Remember a soup under another name too: by that of its method it is forgotten once the method makes another."""
    copy = BuiltSoup(name, built.record, predictions_path(name))
    with replacing(run.path(copy.predictions)) as partial:
        shutil.copyfile(run.path(built.predictions), partial)
    run.state.soups[name] = RememberedSoup(key=key, record=built.record)
    save_state(run.folder, run.state)
    return copy


def is_built(run: Run, name: str, request: SoupRequest) -> bool:
    """Whether the soup is there under this name."""
    return request.key in remembered_soups(run, {name: request}, under_any_name=False)


def remembered_soups(run: Run, requests: Mapping[str, SoupRequest], *, under_any_name: bool) -> dict[str, BuiltSoup]:
    """By key the soups that were built before, from the same ingredients, settings and seed, and whose files are there.

    A soup that stands under several names is taken under one that is asked for.
    """
    keys = {request.key for request in requests.values()}
    soups: dict[str, BuiltSoup] = {}
    for name, remembered in run.state.soups.items():
        own = name in requests and requests[name].key == remembered.key
        if remembered.key not in keys or not (own or under_any_name):
            continue
        built = BuiltSoup(name, remembered.record, predictions_path(name))
        if run.path(built.predictions).exists() and (own or remembered.key not in soups):
            soups[remembered.key] = built
    return soups


def soup_for(built: BuiltSoup, request: SoupRequest) -> BuiltSoup:
    """The soup with the cost of the sweep that is asked about."""
    record = built.record.model_copy(update={"gpu_hours": request.gpu_hours})
    return BuiltSoup(built.name, record, built.predictions)
