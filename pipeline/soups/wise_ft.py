"""WiSE-FT: on the line from the initialisation theta0 to a soup (App. D of the model-soups paper)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from pipeline.errors import SoupError
from pipeline.soups.best_individual import build_best_individual
from pipeline.soups.greedy import GreedySettings, build_greedy
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.measure import measured
from pipeline.soups.rebuild import soup_from_coefficients
from pipeline.soups.settings import Check
from pipeline.soups.soup import Soup, SoupInputs, costed
from pipeline.soups.uniform import uniform_soup


@dataclass(frozen=True)
class WiseFtSettings:
    """Settings of wise-ft; problems raise one ValueError."""

    alpha: float = 0.5
    """Where on the line: 0 is theta0, 1 the soup; beyond is extrapolation."""

    soup: Literal["best-individual", "uniform", "greedy"] = "greedy"
    """The method that makes the end of the line, with its settings of the run."""

    def __post_init__(self) -> None:
        check = Check(self)
        check.number("alpha", low=-1e6, high=1e6)
        check.one_of("soup", ("best-individual", "uniform", "greedy"))
        check.done()


def wise_ft(ingredients: IngredientSet, soup: Soup, theta0: Mapping[str, Tensor] | None, alpha: float = 0.5) -> Soup:
    """The weights (1 - alpha) theta0 + alpha soup, rebuilt from the ingredients (App. D of the model-soups paper).

    Args:
        ingredients: The K fine-tuned models that the soup is made of.
        soup: The end of the line, at alpha = 1.
        theta0: The weights that all ingredients started from, by name: its start, at alpha = 0.
        alpha: Where on the line; outside of [0, 1] is extrapolation.

    Returns:
        A soup whose coefficients are those of ``soup`` times alpha: in each layer they sum to alpha, and theta0 has
        the rest.

    Raises:
        SoupError: There is no theta0, or the soup is an ensemble, which has no weights.
    """
    if theta0 is None:
        raise SoupError(
            "wise-ft needs theta0, the weights that all ingredients started from; give them or leave it out"
        )
    if soup.state_dict is None:
        raise SoupError(f"wise-ft needs a soup, but {soup.method} has no weights; take another method")
    with measured("cpu") as cost:
        coefficients = soup.coefficients * alpha
        weights = soup_from_coefficients(ingredients, coefficients, soup.layers, theta0)
    own_statistics = soup.own_statistics and alpha == 1
    mixed = replace(
        soup, method="wise-ft", state_dict=weights, coefficients=coefficients, own_statistics=own_statistics
    )
    return costed(mixed, cost)


def build_wise_ft(inputs: SoupInputs, settings: WiseFtSettings) -> Soup:
    """`wise_ft` towards the soup that ``settings.soup`` names, as METHODS has it."""
    return wise_ft(inputs.ingredients, _SOUPS[settings.soup](inputs), inputs.theta0, settings.alpha)


_SOUPS: dict[str, Callable[[SoupInputs], Soup]] = {
    "best-individual": build_best_individual,
    "uniform": lambda inputs: uniform_soup(inputs.ingredients),
    "greedy": lambda inputs: build_greedy(inputs, inputs.settings_of.get("greedy", GreedySettings())),
}
