"""Every method by its name. A new method is one file and one line here, or a line that a module of one's own adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pipeline.errors import SoupError
from pipeline.precision import is_out_of_memory
from pipeline.soups.best_individual import build_best_individual, build_best_individual_renewed
from pipeline.soups.ensemble import ensemble
from pipeline.soups.greedy import GreedySettings, build_greedy
from pipeline.soups.greedy_ensemble import greedy_ensemble
from pipeline.soups.learned import LearnedSettings, learned_soup
from pipeline.soups.measure import measured
from pipeline.soups.mehl import MehlSettings, mehl_soup
from pipeline.soups.mehl_plus_greedy import build_mehl_plus_greedy
from pipeline.soups.soup import Builder, Soup, SoupInputs, calling, costed
from pipeline.soups.uniform import uniform_soup
from pipeline.soups.wise_ft import WiseFtSettings, build_wise_ft
from pipeline.soups.workbench import borrowed, recalibrated


@dataclass(frozen=True)
class Method:
    """A way to make a soup: called with inputs and, where it has any, settings.

    Attributes:
        name: In METHODS, settings, records and file names.
        label: What people read in tables and figures.
        build: Makes the soup from inputs and settings; for a plain function of the library, ``calling(function)``.
        defaults: The settings, a frozen dataclass that checks itself; None for a method that has none.
        needs_theta0: Whether coefficients need not sum to one in a layer, because theta0 has the rest.
        single_model: Whether it makes weights of one model; an ensemble has those of its members.
        parts: Methods whose soups it starts from: it gets their settings in `SoupInputs.settings_of`, and its soup is
            another one where they are others.
    """

    name: str
    label: str
    build: Builder
    defaults: Any = None
    needs_theta0: bool = False
    single_model: bool = True
    parts: tuple[str, ...] = ()

    def settings(self, overrides: Mapping[str, Any]) -> Any:
        """The defaults with these values in place of theirs; None for a method without settings.

        Args:
            overrides: Fields of the settings and their values.

        Raises:
            ValueError: All that is wrong with the values.
        """
        return None if self.defaults is None else replace(self.defaults, **overrides)

    def __call__(self, inputs: SoupInputs, settings: Any = None) -> Soup:
        """Build the soup, BatchNorm statistics included, and measure what that cost.

        Statistics are renewed on every soup that is not marked as an ingredient with its own (`Soup.own_statistics`).

        Args:
            inputs: Model, ingredients, fit images and the rest.
            settings: None for the defaults.

        Returns:
            The soup under this method's name; its cost is that of the whole call.

        Raises:
            SoupError: The inputs do not fit each other, or the method does not fit into the memory of the device.
        """
        with measured(inputs.device) as cost, borrowed(inputs.model, inputs.device):
            try:
                soup = self.build(inputs, self.defaults if settings is None else settings)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                raise SoupError(f"{self.name}: {inputs.device} is out of memory; {self._remedy()}") from error
            self._check(soup, len(inputs.ingredients))
            if inputs.recalibrate is not None and soup.state_dict is not None and not soup.own_statistics:
                weights = recalibrated(inputs.model, soup.state_dict, inputs.recalibrate, inputs.device)
                soup = replace(soup, state_dict=weights)
        return costed(replace(soup, method=self.name), cost)

    def _remedy(self) -> str:
        helpful = {"micro_batch_size": "1", "delta_dtype": "bfloat16 or int8", "memory_budget_gib": "what is free"}
        lowered = [f"{name}: {value}" for name, value in helpful.items() if hasattr(self.defaults, name)]
        settings = f"give soup.settings.{self.name} {' or '.join(lowered)}, or " if lowered else ""
        return f"{settings}end what else runs on the device"

    def _check(self, soup: Soup, count: int) -> None:
        """Records, lineage and figures rest on the coefficients, so a builder's mistake is told before anything is."""
        shape, wanted = tuple(soup.coefficients.shape), (count, len(soup.layers))
        if shape != wanted or soup.coefficients.dtype != torch.float64:
            raise SoupError(
                f"{self.name}: its coefficients are {soup.coefficients.dtype} of shape {shape}; for {count} "
                f"ingredients and {len(soup.layers)} layers they must be torch.float64 of shape {wanted}"
            )


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("best-individual", "Best individual", build_best_individual),
        Method("best-individual-renewed", "Best individual, renewed statistics", build_best_individual_renewed),
        Method("uniform", "Uniform soup", calling(uniform_soup)),
        Method("greedy", "Greedy soup", build_greedy, GreedySettings()),
        Method("learned", "Learned-Soup", calling(learned_soup), LearnedSettings(layers="model")),
        Method("learned-plus", "Learned-Soup+", calling(learned_soup), LearnedSettings()),
        Method("hl", "HL-Soup", calling(mehl_soup), MehlSettings(block_size=None, layers="model")),
        Method("hl-plus", "HL-Soup+", calling(mehl_soup), MehlSettings(block_size=None)),
        Method("mehl", "MEHL-Soup", calling(mehl_soup), MehlSettings(layers="model")),
        Method("mehl-plus", "MEHL-Soup+", calling(mehl_soup), MehlSettings()),
        Method("mehl-plus-greedy", "MEHL-Soup+ from greedy", build_mehl_plus_greedy, MehlSettings(), parts=("greedy",)),
        Method("ensemble", "Ensemble", calling(ensemble), single_model=False),
        Method("greedy-ensemble", "Greedy ensemble", calling(greedy_ensemble), GreedySettings(), single_model=False),
        Method("wise-ft", "WiSE-FT", build_wise_ft, WiseFtSettings(), needs_theta0=True, parts=("greedy",)),
    )
}
