"""How tables of trials show hyperparameters: a column for each in which they differ, the others named once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.records.types import Scalar, title_of

_OF_RANDAUGMENT = ("randaugment_m", "randaugment_n")  # shown with the augmentation


class Comparison(NamedTuple):
    """The names of the hyperparameters in which trials differ, and of those that all of them share."""

    differing: list[str]
    shared: list[str]


def compared(trials: Sequence[Mapping[str, Scalar]]) -> Comparison:
    """Compare the hyperparameters of trials; one that is known of none is left out."""
    rows = [_merged(trial) for trial in trials]
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: {row.get(name) for row in rows} for name in names}
    return Comparison(
        [name for name, different in values.items() if len(different) > 1],
        [name for name, different in values.items() if len(different) == 1 and different != {None}],
    )


def shown(trial: Mapping[str, Scalar], digits: int = 3) -> dict[str, str]:
    """The hyperparameters of a trial as text, by name: ``3.2e-05``, ``RandAugment n=2 m=15``; ``-`` if not known."""
    return {name: _text(value, digits) for name, value in _merged(trial).items()}


def named(trial: Mapping[str, Scalar], names: Sequence[str]) -> str:
    """Some of a trial's hyperparameters in a sentence: ``learning rate 3.2e-05, mixup 0, EMA decay 0.999``."""
    texts = shown(trial)
    return ", ".join(f"{in_words(name)} {texts[name]}" for name in names)


def in_words(hyperparameter: str) -> str:
    """Its title within a sentence: small letters, unless the title has capitals beside the first."""
    title = title_of(hyperparameter)
    return title.lower() if title[1:] == title[1:].lower() else title


def _merged(trial: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The hyperparameters with RandAugment's two in the value of the augmentation, where that is RandAugment."""
    if "augmentation" not in trial:
        return dict(trial)
    merged = {name: value for name, value in trial.items() if name not in _OF_RANDAUGMENT}
    if trial["augmentation"] == "randaugment":
        magnitude, number = (_text(trial.get(name)) for name in _OF_RANDAUGMENT)
        merged["augmentation"] = f"RandAugment n={number} m={magnitude}"
    return merged


def _text(value: Scalar, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)
