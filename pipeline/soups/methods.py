"""Every method by its name. A new method is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.soups.best_individual import build_best_individual
from pipeline.soups.ensemble import ensemble
from pipeline.soups.greedy import GreedySettings, build_greedy
from pipeline.soups.greedy_ensemble import greedy_ensemble
from pipeline.soups.learned import LearnedSettings, learned_soup
from pipeline.soups.measure import measured
from pipeline.soups.mehl import MehlSettings, mehl_soup
from pipeline.soups.mehl_plus_greedy import build_mehl_plus_greedy
from pipeline.soups.soup import Soup, SoupInputs, costed
from pipeline.soups.uniform import uniform_soup
from pipeline.soups.wise_ft import WiseFtSettings, build_wise_ft
from pipeline.soups.workbench import borrowed, recalibrated


@dataclass(frozen=True)
class Method:
    """A way to make a soup: called with inputs and, where it has any, settings (by default ``defaults``)."""

    name: str
    build: Callable[[SoupInputs, Any], Soup]
    defaults: Any = None

    def settings(self, given: Mapping[str, Any]) -> Any:
        """The defaults with the values of ``given``; None for a method without settings. Raises ValueError."""
        return None if self.defaults is None else replace(self.defaults, **given)

    def __call__(self, inputs: SoupInputs, settings: Any = None) -> Soup:
        """Build the soup, BatchNorm statistics included, and measure what that cost.

        A soup of one ingredient keeps that ingredient's own statistics.
        """
        with measured(inputs.device) as cost, borrowed(inputs.model, inputs.device):
            soup = self.build(inputs, self.defaults if settings is None else settings)
            if inputs.recalibrate is not None and soup.state_dict is not None and not _is_ingredient(soup):
                weights = recalibrated(inputs.model, soup.state_dict, inputs.recalibrate, inputs.device)
                soup = replace(soup, state_dict=weights)
        return costed(replace(soup, method=self.name), cost)


def _is_ingredient(soup: Soup) -> bool:
    return len(soup.selected) == 1 and bool((soup.coefficients[soup.selected[0]] == 1).all())


def _uniform(inputs: SoupInputs, settings: None) -> Soup:
    return uniform_soup(inputs.ingredients)


def _mehl(inputs: SoupInputs, settings: MehlSettings) -> Soup:
    return mehl_soup(
        inputs.model,
        inputs.ingredients,
        inputs.fit,
        settings,
        device=inputs.device,
        seed=inputs.seed,
        preprocess=inputs.preprocess,
        checkpoint=inputs.checkpoint,
        recalibrate=inputs.recalibrate,
    )


def _learned(inputs: SoupInputs, settings: LearnedSettings) -> Soup:
    return learned_soup(
        inputs.model,
        inputs.ingredients,
        inputs.fit,
        settings,
        device=inputs.device,
        seed=inputs.seed,
        preprocess=inputs.preprocess,
        recalibrate=inputs.recalibrate,
    )


def _ensemble(inputs: SoupInputs, settings: None) -> Soup:
    return ensemble(inputs.ingredients)


def _greedy_ensemble(inputs: SoupInputs, settings: GreedySettings) -> Soup:
    return greedy_ensemble(
        inputs.model,
        inputs.ingredients,
        inputs.fit,
        settings,
        accuracies=inputs.accuracies,
        device=inputs.device,
        seed=inputs.seed,
        preprocess=inputs.preprocess,
        batch_size=inputs.score_batch_size,
    )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("best-individual", build_best_individual),
        Method("uniform", _uniform),
        Method("greedy", build_greedy, GreedySettings()),
        Method("learned", _learned, LearnedSettings(layers="model")),
        Method("learned-plus", _learned, LearnedSettings()),
        Method("hl", _mehl, MehlSettings(block_size=None, layers="model")),
        Method("hl-plus", _mehl, MehlSettings(block_size=None)),
        Method("mehl", _mehl, MehlSettings(layers="model")),
        Method("mehl-plus", _mehl, MehlSettings()),
        Method("mehl-plus-greedy", build_mehl_plus_greedy, MehlSettings()),
        Method("ensemble", _ensemble),
        Method("greedy-ensemble", _greedy_ensemble, GreedySettings()),
        Method("wise-ft", build_wise_ft, WiseFtSettings()),
    )
}
