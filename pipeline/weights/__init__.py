"""Reading, writing, loading and identifying weights. Nothing is unpickled: safetensors, or ``weights_only=True``."""

from pipeline.weights.checkpoint import WEIGHTS_CHOICES, Checkpoint, WeightsChoice, read_checkpoint, read_weights
from pipeline.weights.files import damage, file_kind
from pipeline.weights.state import is_constant, load_weights, save_weights, unique_state, weights_sha256
from pipeline.weights.texts import class_names_of, name_problem, shown

__all__ = [
    "WEIGHTS_CHOICES",
    "Checkpoint",
    "WeightsChoice",
    "class_names_of",
    "damage",
    "file_kind",
    "is_constant",
    "load_weights",
    "name_problem",
    "read_checkpoint",
    "read_weights",
    "save_weights",
    "shown",
    "unique_state",
    "weights_sha256",
]
