"""Ingredients and soups in MLflow. The registry, not Tune's snapshot, decides which trials are finished."""

from pipeline.registry.client import connect, store_errors
from pipeline.registry.ingredients import (
    IngredientRecorder,
    IngredientVersion,
    fetch_ingredients,
    fetch_intact,
    list_ingredients,
    read_trials,
)
from pipeline.registry.serving import SoupModel
from pipeline.registry.soups import (
    SoupVersion,
    fetch_description,
    fetch_soup,
    find_soup,
    list_soups,
    log_soup_files,
    register_soup,
    set_champion,
)
from pipeline.registry.sweeps import (
    Sweep,
    describe,
    fetch_settings,
    find_sweep,
    finish_sweep,
    log_costs,
    log_datasets,
    log_settings,
    open_sweep,
)

__all__ = [
    "IngredientRecorder",
    "IngredientVersion",
    "SoupModel",
    "SoupVersion",
    "Sweep",
    "connect",
    "describe",
    "fetch_description",
    "fetch_ingredients",
    "fetch_intact",
    "fetch_settings",
    "fetch_soup",
    "find_soup",
    "find_sweep",
    "finish_sweep",
    "list_ingredients",
    "list_soups",
    "log_costs",
    "log_datasets",
    "log_settings",
    "log_soup_files",
    "open_sweep",
    "read_trials",
    "register_soup",
    "set_champion",
    "store_errors",
]
