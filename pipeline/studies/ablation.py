"""Any setting of any method at other values (Fig. 3 and App. D of the MEHL-Soup paper)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from pipeline.config import HIGHEST_SEED, Config, Known, MethodName, method_settings
from pipeline.errors import quoted
from pipeline.records import Record, VariantRecord
from pipeline.soup_requests import SoupRequest
from pipeline.studies.base import BuiltSoup, Study, StudyInputs
from pipeline.studies.variants import Variant, requests_of, rows_of

AblationSettings = Annotated[
    dict[MethodName, dict[str, Annotated[list[Any], Field(min_length=1)]]],
    Field(
        description="Other values of a method's settings, or of the `seed`, one at a time: "
        "`{mehl-plus: {block_size: [2, 8], layers: [module, model], seed: [1, 2]}}`."
    ),
]


def _resolve(settings: Mapping[str, Mapping[str, Sequence[Any]]], config: Config, known: Known) -> Any:
    """Every value as the method takes it, each once."""
    problems, resolved = [], dict[str, dict[str, list[Any]]]()
    for method, values in settings.items():
        own = config.soup.settings.get(method, {})
        for setting, wanted in values.items():
            try:
                checked = [_checked(method, own, setting, value, known.methods[method]) for value in wanted]
                resolved.setdefault(method, {})[setting] = list(dict.fromkeys(checked))
            except ValueError as error:
                problems.append(f"study.ablation.{str(error).removeprefix('settings.')}")
    if problems:
        raise ValueError("; ".join(problems))
    return resolved


def _checked(method: str, own: Mapping[str, Any], setting: str, value: Any, defaults: Any) -> Any:
    """``value`` as the setting takes it, with the method's ``own`` settings for the others; raises ValueError."""
    if setting != "seed":
        return method_settings(method, {**own, setting: value}, defaults)[setting]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= HIGHEST_SEED:
        raise ValueError(f"{method}.seed: must be whole numbers from 0 on, got {quoted(value)}")
    return value


def ablations(inputs: StudyInputs) -> list[Variant]:
    """For each method and setting the soup with the run's own value, then those with the others.

    ``seed`` is a setting too: how much the soup depends on chance.
    """
    variants = []
    for method, values in inputs.settings.items():
        request = inputs.whole_sweep(method)
        own = {**request.settings, "seed": request.seed}
        for setting, wanted in values.items():
            # Each value that makes another soup once, the run's own first.
            distinct: dict[Any, Any] = {}
            for value in (own[setting], *wanted):
                distinct.setdefault(_used(setting, value, request), value)
            for value in distinct.values():
                if setting == "seed":
                    changed = replace(request, seed=value)
                else:
                    changed = replace(request, settings={**request.settings, setting: value})
                variants.append(Variant("ablation", method, setting, value, value == own[setting], changed))
    return variants


def _used(setting: str, value: Any, request: SoupRequest) -> Any:
    """What comes of ``value``: all block sizes from the number of ingredients on are that number."""
    count = len(request.ingredients) + request.include_initialization
    if setting == "block_size" and (value is None or isinstance(value, int)):
        return count if value is None else min(value, count)
    return value


def _rows(inputs: StudyInputs, soups: Mapping[str, BuiltSoup]) -> Mapping[str, Sequence[Record]]:
    return {"ablation": rows_of(ablations(inputs), soups)}


ABLATION = Study(
    tables={"ablation": VariantRecord},
    requests=lambda inputs: requests_of(ablations(inputs)),
    rows=_rows,
    settings=AblationSettings,
    resolve=_resolve,
)
