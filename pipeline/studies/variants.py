"""Soups of which one thing differs from those of the soup stage: Tab. 3, Fig. 3 and App. D of the MEHL-Soup paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.records import CoefficientRecord, IngredientRecord, SoupRecord, VariantRecord
from pipeline.soup_task import SoupLine, SoupRequest


@dataclass(frozen=True)
class Variant:
    """A soup to build: ``method`` with ``value`` for ``setting``; ``name`` tells it from all others of the run."""

    study: str
    method: str
    setting: str
    value: Any
    is_default: bool
    request: SoupRequest

    @property
    def name(self) -> str:
        """By which it is remembered, and its predictions are found."""
        return f"{self.study}/{self.method}/{self.setting}={_text(self.value)}"

    def record(self, soup: SoupRecord, predictions: str) -> VariantRecord:
        """Its row."""
        shared = soup.model_dump(exclude={"gpu_hours"})
        own = {"method": self.method, "setting": self.setting, "value": _text(self.value)}
        return VariantRecord.model_validate(shared | own | {"is_default": self.is_default, "predictions": predictions})


def eliminations(
    ingredients: Sequence[IngredientRecord], whole: Mapping[str, SoupRequest], top: Sequence[int]
) -> list[Variant]:
    """The soups without the ``top`` best ingredients by validation accuracy, and those of all (Tab. 3).

    ``whole`` are the soups of all finished trials by method. What would leave nothing is left out.
    """
    finished = [row for row in ingredients if row.status == "finished"]
    ranked = sorted(finished, key=lambda row: -(row.val_accuracy or 0.0))
    return [
        Variant(
            "elimination",
            method,
            "eliminated",
            count,
            count == 0,
            replace(request, trial_indices=tuple(sorted(row.trial_index for row in ranked[count:]))),
        )
        for method, request in whole.items()
        for count in sorted({0, *top})
        if count < len(ranked)
    ]


def ablations(whole: Mapping[str, SoupRequest], values: Mapping[str, Mapping[str, Sequence[Any]]]) -> list[Variant]:
    """For each method and setting the soups with the given values, and with the run's own (Fig. 3, App. D).

    ``seed`` is a setting too: how much the soup depends on chance.
    """
    found = []
    for method, settings in values.items():
        request = whole[method]
        own = {**request.settings, "seed": request.seed}
        for setting, given in settings.items():
            for value in [own[setting], *(value for value in given if value != own[setting])]:
                if setting == "seed":
                    changed = replace(request, seed=value)
                else:
                    changed = replace(request, settings={**request.settings, setting: value})
                found.append(Variant("ablation", method, setting, value, value == own[setting], changed))
    return found


def interpolations(
    whole: Mapping[str, SoupRequest], coefficients: Mapping[str, Sequence[CoefficientRecord]], alphas: Sequence[float]
) -> list[Variant]:
    """Models on the line from theta0 (alpha 0) through the recorded soup of each method (1) (App. D of model-soups).

    ``whole`` are the soups of all finished trials by method, ``coefficients`` what they came to.
    """
    return [
        Variant(
            "wise-ft",
            method,
            "alpha",
            alpha,
            alpha == 1,
            replace(_on_line(whole[method], rows), settings={"alpha": alpha}),
        )
        for method, rows in coefficients.items()
        for alpha in alphas
    ]


def _on_line(whole: SoupRequest, rows: Sequence[CoefficientRecord]) -> SoupRequest:
    """The request of the recorded soup: its own trials, which may be fewer if some were damaged, theta0 last."""
    if not rows:  # nothing was mixed: there is one ingredient, or all are equal
        coefficients = [(1.0,), *((0.0,) for _ in whole.trial_indices[1:])]
        return replace(whole, line=SoupLine(("model",), tuple(coefficients)))
    layers = tuple(dict.fromkeys(row.layer for row in rows))
    table = {(row.trial_index, row.layer): row.coefficient for row in rows}
    trials = sorted({row.trial_index for row in rows}, key=lambda index: (index < 0, index))
    line = SoupLine(layers, tuple(tuple(table[trial, layer] for layer in layers) for trial in trials))
    return replace(whole, trial_indices=tuple(trial for trial in trials if trial >= 0), line=line)


def _text(value: Any) -> str:
    """As one writes it in the settings, in short."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
