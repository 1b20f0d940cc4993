"""MEHL-Soup+ from the greedy soup instead of the mean: the start, and the centre that directions are measured from."""

from __future__ import annotations

from dataclasses import replace

from pipeline.soups.greedy import GreedySettings, build_greedy
from pipeline.soups.mehl import MehlSettings, mehl_soup
from pipeline.soups.soup import Soup, SoupInputs


def build_mehl_plus_greedy(inputs: SoupInputs, settings: MehlSettings) -> Soup:
    """`mehl_soup` whose centre is the greedy soup of default settings; ``epochs`` counts the passes of both."""
    greedy = build_greedy(inputs, GreedySettings())
    soup = mehl_soup(
        inputs.model,
        inputs.ingredients,
        inputs.fit,
        settings,
        device=inputs.device,
        seed=inputs.seed,
        preprocess=inputs.preprocess,
        centre=greedy.coefficients[:, 0].tolist(),
        checkpoint=inputs.checkpoint,
        recalibrate=inputs.recalibrate,
    )
    return replace(soup, epochs=greedy.epochs + soup.epochs)
