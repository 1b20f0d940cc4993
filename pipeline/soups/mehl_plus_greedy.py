"""MEHL-Soup+ from the greedy soup instead of the mean: the start, and the centre that directions are measured from."""

from __future__ import annotations

import functools
from dataclasses import replace

from pipeline.soups.greedy import GreedySettings, build_greedy
from pipeline.soups.mehl import MehlSettings, mehl_soup
from pipeline.soups.soup import Soup, SoupInputs, calling


def build_mehl_plus_greedy(inputs: SoupInputs, settings: MehlSettings) -> Soup:
    """`mehl_soup` whose centre is the greedy soup of the run's settings; ``epochs`` counts the passes of both."""
    greedy = build_greedy(inputs, inputs.settings_of.get("greedy", GreedySettings()))
    from_greedy = functools.partial(mehl_soup, centre=greedy.coefficients[:, 0].tolist())
    soup = calling(from_greedy)(inputs, settings)
    return replace(soup, epochs=greedy.epochs + soup.epochs, epochs_of_trials=greedy.epochs_of_trials)
