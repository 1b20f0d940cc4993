"""Hyperparameters that follow from what earlier trials came to, by Optuna."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import SPACES, Distribution, SearchConfig
from pipeline.records import Hyperparameters, IngredientRecord, Scalar
from pipeline.search.sampling import Trial, with_randaugment


def suggested(settings: SearchConfig, trial: Trial, rows: Sequence[IngredientRecord]) -> Hyperparameters:
    """What Optuna's TPE sampler suggests for ``trial`` when the trials of ``rows`` have ended.

    It sees what they have on `fit`, as the best trial is the best there; those without a score tell it nothing. What is
    constant, and the seed, is as ``trial`` has it, and so is everything for the first ten, which are random. The same
    rows give the same suggestion.
    """
    import optuna  # slow to import, and seldom wanted

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {**SPACES[settings.space].distributions, **settings.distributions}
    varied = {name: how for name, how in space.items() if name in trial.hyper.given and not _is_constant(how)}
    distributions = {key: value for name, how in varied.items() for key, value in _distributions(name, how).items()}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=trial.hyper.seed))
    for row in sorted(rows, key=lambda row: row.trial_index):
        if row.val_score is not None:
            known = _parameters(row.hyperparameters, varied, distributions)
            theirs = {name: distributions[name] for name in known}
            study.add_trial(optuna.trial.create_trial(params=known, distributions=theirs, value=row.val_score))
    drawn = study.ask(distributions).params
    values = {name: drawn[name] if drawn.get(_gate(name), True) else 0 for name in varied}
    return type(trial.hyper)(**with_randaugment({**trial.hyper.given, **values}))


def _is_constant(how: Distribution) -> bool:
    return len(how.choice or how.grid or [0, 1]) == 1 and how.probability == 1


def _gate(name: str) -> str:
    """Whether a value is drawn at all is a parameter of its own."""
    return f"{name} is drawn"


def _distributions(name: str, how: Distribution) -> dict[str, Any]:
    """The parameters that Optuna knows of a hyperparameter."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any
    if how.uniform is not None:
        value = FloatDistribution(*how.uniform)
    elif how.loguniform is not None:
        value = FloatDistribution(*how.loguniform, log=True)
    elif how.randint is not None:
        value = IntDistribution(how.randint[0], how.randint[1] - 1)
    else:
        value = CategoricalDistribution(how.choice or how.grid or ())
    gate = {} if how.probability == 1 else {_gate(name): CategoricalDistribution([False, True])}
    return {**gate, name: value}


def _parameters(
    values: Mapping[str, Scalar], varied: Mapping[str, Distribution], distributions: Mapping[str, Any]
) -> dict[str, Any]:
    """What an ended trial had of the parameters, and nothing that cannot be drawn, as the M of an augmentation."""
    known: dict[str, Any] = {}
    for name in varied:
        value = values.get(name)
        if _gate(name) in distributions:
            known[_gate(name)] = value != 0
        if _can_be(value, distributions[name]) and known.get(_gate(name), True):
            known[name] = value
    return known


def _can_be(value: Scalar, distribution: Any) -> bool:
    if hasattr(distribution, "choices"):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high
