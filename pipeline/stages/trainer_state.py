"""How a checkpoint was trained, as far as Hugging Face's Trainer says so beside it.

Its ``training_args.bin``, which says all, is a pickle and is not read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

_FILE = "trainer_state.json"


class TrainerState(NamedTuple):
    """What ``trainer_state.json`` says.

    ``columns`` are hyperparameters by name: ``epochs``, where they are whole, ``lr``, the highest learning rate that
    was logged, ``batch_size``, that of one process. ``hours`` of training are there where the training was finished,
    but not on how many GPUs. ``problem`` is why the file says nothing.
    """

    columns: dict[str, Any]
    hours: float | None = None
    problem: str | None = None


def read_trainer_state(checkpoint: Path) -> TrainerState | None:
    """Of a folder that Trainer wrote; None of any other, and of a file.

    How well the model did is not taken: that was on other texts than the splits of a run.
    """
    file = checkpoint / _FILE
    if not file.is_file():
        return None
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return TrainerState({}, problem=f"cannot be read ({type(error).__name__})")
    if not isinstance(state, Mapping) or not isinstance(history := state.get("log_history"), list):
        return TrainerState({}, problem="is none of Trainer's")
    columns: dict[str, Any] = {}
    epochs = _number(state.get("epoch"))
    if epochs is not None and round(epochs) >= 1 and abs(epochs - round(epochs)) < 1e-6 and _is_last(checkpoint, state):
        columns["epochs"] = round(epochs)
    logs = [entry for entry in history if isinstance(entry, Mapping)]
    if rates := [rate for entry in logs if (rate := _number(entry.get("learning_rate"))) is not None]:
        columns["lr"] = max(rates)
    batch_size = state.get("train_batch_size")
    if isinstance(batch_size, int) and 1 <= batch_size <= 10**9:
        columns["batch_size"] = batch_size
    seconds = [second for entry in logs if (second := _number(entry.get("train_runtime"))) is not None]
    return TrainerState(columns, seconds[-1] / 3600 if seconds else None)


def _is_last(checkpoint: Path, state: Mapping[str, Any]) -> bool:
    """Whether the weights are those after the last step; a model saved at the end may be the best one before."""
    last, best = f"checkpoint-{state.get('global_step')}", state.get("best_model_checkpoint")
    return checkpoint.name == last or best is None or Path(str(best)).name == last


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and isfinite(value) and 0 <= value <= 1e38 else None
