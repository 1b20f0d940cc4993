"""The ingredients, settings and images of a finished run whose artifact store is on this machine."""

import sys
from pathlib import Path

import torch

from pipeline.cluster import start_ray
from pipeline.commands.common import known_names
from pipeline.config import Config, load_config
from pipeline.data import Splits, load_splits
from pipeline.evaluation import recalibration
from pipeline.models import build_classifier
from pipeline.records import IngredientRecord
from pipeline.records.tables import read_table
from pipeline.registry.client import local_path
from pipeline.soups import IngredientSet, SoupInputs


def open_run(folder: Path) -> tuple[Config, Splits, SoupInputs]:
    """What the soups of the run in ``folder`` were built from, on the GPU if there is one."""
    config = load_config(folder / "config.yaml", [], known_names)
    start_ray()
    splits = load_splits(config.data, config.seed)
    rows = read_table(folder / "ingredients.parquet", IngredientRecord)
    uris = [row.path for row in rows if row.path is not None]
    paths = [path for uri in uris if (path := local_path(uri)) is not None]
    if len(paths) < len(uris):
        sys.exit(f"{len(uris) - len(paths)} of the {len(uris)} ingredients of {folder} are not on this machine")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_classifier(config.model, len(splits.class_names))
    inputs = SoupInputs(
        model=model,
        ingredients=IngredientSet.open(paths),
        fit=splits.fit.tensors(),
        device=device,
        seed=config.seed,
        recalibrate=recalibration(model, splits, device),
    )
    return config, splits, inputs
