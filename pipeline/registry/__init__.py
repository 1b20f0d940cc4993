"""Ingredients and soups in MLflow. The registry, not Tune's snapshot, decides which trials are finished."""

from pipeline.registry.client import connect
from pipeline.registry.ingredients import (
    IngredientRecorder,
    IngredientVersion,
    fetch_ingredients,
    list_ingredients,
    read_trials,
)
from pipeline.registry.soups import fetch_soup, log_soup_files, register_soup, set_champion
from pipeline.registry.sweeps import Sweep, log_costs, log_files, open_sweep

__all__ = [
    "IngredientRecorder",
    "IngredientVersion",
    "Sweep",
    "connect",
    "fetch_ingredients",
    "fetch_soup",
    "list_ingredients",
    "log_costs",
    "log_files",
    "log_soup_files",
    "open_sweep",
    "read_trials",
    "register_soup",
    "set_champion",
]
