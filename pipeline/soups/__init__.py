"""The soup mathematics: from a set of fine-tuned models to one, by every method of the papers.

Needs torch, NumPy and safetensors alone. Start with `IngredientSet.open`, then one of the plain functions (`mehl_soup`,
`greedy_soup`, `uniform_soup`, …) or `METHODS`, which maps each method's name to a builder around them.

Letters are those of the MEHL-Soup paper: K ingredients theta_k, L layers, n fit images; T blocks of b models, and J
steps on each. A file builds on those before it:

- reading: ``ingredient_file``, ``admission``, ``streaming``, ``ingredients``
- from coefficients to weights: ``layers``, ``rebuild``
- the caller's model and images: ``workbench``, ``fit_data``, ``measure``, ``soup``, ``scoring``
- learning coefficients: ``optimizers``, ``descent``, ``packed``, ``directions``, ``hyperplane``, ``budget``,
  ``checkpoint``
- one file per method, with its settings, and the table of them: ``methods``
"""

from pipeline.soups.best_individual import best_individual
from pipeline.soups.checkpoint import blocks_done
from pipeline.soups.diagnosis import Diagnosis, Similarities, cosine_similarities, diagnose
from pipeline.soups.ensemble import ensemble
from pipeline.soups.greedy import GreedySettings, greedy_soup
from pipeline.soups.greedy_ensemble import greedy_ensemble
from pipeline.soups.ingredients import IngredientSet
from pipeline.soups.learned import LearnedSettings, learned_soup
from pipeline.soups.mehl import MehlSettings, mehl_soup
from pipeline.soups.methods import METHODS, Method
from pipeline.soups.rebuild import soup_from_coefficients
from pipeline.soups.scoring import AccuracyScorer, Score, accuracy_scorer
from pipeline.soups.soup import Builder, Soup, SoupInputs, calling, nonzero_rows
from pipeline.soups.uniform import uniform_soup
from pipeline.soups.wise_ft import WiseFtSettings, wise_ft
from pipeline.soups.workbench import copy_into_model, recalibrated

__all__ = [
    "METHODS",
    "AccuracyScorer",
    "Builder",
    "Diagnosis",
    "GreedySettings",
    "IngredientSet",
    "LearnedSettings",
    "MehlSettings",
    "Method",
    "Score",
    "Similarities",
    "Soup",
    "SoupInputs",
    "WiseFtSettings",
    "accuracy_scorer",
    "best_individual",
    "blocks_done",
    "calling",
    "copy_into_model",
    "cosine_similarities",
    "diagnose",
    "ensemble",
    "greedy_ensemble",
    "greedy_soup",
    "learned_soup",
    "mehl_soup",
    "nonzero_rows",
    "recalibrated",
    "soup_from_coefficients",
    "uniform_soup",
    "wise_ft",
]
