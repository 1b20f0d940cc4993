"""How hyperparameters are drawn, and the search spaces of the papers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo

from pipeline.config.base import MOST, Section, strictly
from pipeline.errors import LONGEST_QUOTE, quoted, shortened

_Bounds = Annotated[tuple[float, float], Field(strict=False)]
_Integer = Annotated[int, Field(ge=-MOST, le=MOST)]
WARMUP_FRACTION = 0.05  # where a space has no other
Number = bool | int | float | str  # a value of a hyperparameter


class Distribution(Section):
    """How a hyperparameter is drawn, in Tune's terms: exactly one of the five; a plain value stands for a constant."""

    uniform: _Bounds | None = None
    """Between two values."""
    loguniform: _Bounds | None = None
    """10^U between two positive values."""
    randint: Annotated[tuple[_Integer, _Integer], Field(strict=False)] | None = None
    """An integer from the first value up to, but without, the second."""
    choice: list[Number] | None = None
    """One of these, with equal probability."""
    grid: list[Number] | None = None
    """Each of these, in all combinations with the other grids of the space; then all again with other seeds."""
    probability: float = Field(1.0, gt=0, le=1)
    """With the remaining probability the value is 0."""

    @model_validator(mode="before")
    @classmethod
    def _constant(cls, value: Any) -> Any:
        if isinstance(value, list):
            raise ValueError(f"a list does not say how values are drawn; {_meant(value)}")
        return {"choice": [value]} if isinstance(value, Number) else value

    @model_validator(mode="after")
    def _exactly_one(self) -> Distribution:
        names = ("uniform", "loguniform", "randint", "choice", "grid")
        kinds = [kind for kind in names if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of {', '.join(names)}")
        bounds = getattr(self, kinds[0])
        if kinds[0] in ("choice", "grid"):
            if not bounds:
                raise ValueError(f"{kinds[0]} is empty")
            if kinds[0] == "grid" and self.probability < 1:
                raise ValueError("a grid has no probability; put 0 into the grid instead")
        elif bounds[0] >= bounds[1] or (kinds[0] == "loguniform" and bounds[0] <= 0):
            raise ValueError(
                f"{kinds[0]} {list(bounds)}: the first bound must be below the second, and positive for loguniform"
            )
        elif not math.isfinite(bounds[1] - bounds[0]):
            raise ValueError(f"{kinds[0]} {list(bounds)}: the bounds are too far from each other to draw between them")
        return self

    @property
    def largest(self) -> float:
        """No larger value is drawn."""
        if self.randint is not None:
            return self.randint[1] - 1
        values = self.uniform or self.loguniform or self.choice or self.grid or ()
        return max((value for value in values if isinstance(value, int | float)), default=0)


def _meant(values: list[Any]) -> str:
    """How one writes what may be meant by a plain list."""
    one_of = f"{{choice: [{shortened(', '.join(map(str, values)), LONGEST_QUOTE)}]}} for one of these"
    if len(values) != 2 or not all(isinstance(value, int | float) for value in values):
        return f"write {one_of}"
    low, high = values
    whole = isinstance(low, int) and isinstance(high, int)
    kind = "randint" if whole else "loguniform" if high >= 10 * low > 0 else "uniform"
    return f"write {{{kind}: {values}}} for values between them, {one_of}"


@dataclasses.dataclass(frozen=True)
class Space:
    """A search space: how each hyperparameter is drawn, and what a sweep over it is unless the settings say otherwise.

    ``warmup_fraction`` is as in `SearchConfig`; ``include_initialization`` offers theta0 as an ingredient. What it does
    not draw has its default.
    """

    distributions: Mapping[str, Distribution]
    num_trials: int
    warmup_fraction: float = WARMUP_FRACTION
    include_initialization: bool = False


def unfit(name: str, field: FieldInfo, distribution: Distribution) -> Iterator[str]:
    """What ``distribution`` may draw that the hyperparameter ``name``, a ``field`` of its model, cannot be."""
    if (distribution.uniform or distribution.loguniform) and field.annotation is not float:
        yield f"{name}: takes no real numbers; use randint or choice"
        return
    if distribution.randint:
        extremes: list[Any] = [distribution.randint[0], distribution.randint[1] - 1]
    else:
        extremes = list(
            distribution.choice or distribution.grid or distribution.uniform or distribution.loguniform or ()
        )
    extremes += [0] if distribution.probability < 1 else []
    kind: Any = Annotated[field.annotation, field]
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
    for value in extremes:
        try:
            strictly(adapter, value)
        except ValidationError as error:
            yield f"{name}: cannot be {quoted(value)} ({error.errors()[0]['msg']})"


def _constant(value: float | str) -> Distribution:
    return Distribution(choice=[value])


_PLAIN = {
    "weight_decay": _constant(0.1),
    "epochs": _constant(10),
    "batch_size": _constant(512),
    **{name: _constant(0) for name in ("label_smoothing", "mixup", "randaugment_m", "randaugment_n")},
    "cutmix": _constant(0),
    "ema_decay": _constant(0),
}
# App. J.2.1 of the model-soups paper. Tune's randint leaves out its upper bound.
_RANDOM = {
    **_PLAIN,
    "lr": Distribution(loguniform=(1e-6, 1e-4)),
    "weight_decay": Distribution(loguniform=(1e-4, 10**-0.2)),
    "epochs": Distribution(randint=(4, 17)),
    "label_smoothing": Distribution(uniform=(0.0, 0.25), probability=0.5),
    "mixup": Distribution(uniform=(0.0, 0.9), probability=0.5),
    "augmentation": Distribution(choice=["minimal", "randaugment", "randaugment"]),
    "randaugment_m": Distribution(randint=(0, 21)),
    "randaugment_n": Distribution(randint=(0, 3)),
}
# The same appendix, which leaves the weight decay of its grids open; 0.1 is the released code's.
_STANDARD_GRID = {
    **_PLAIN,
    "lr": Distribution(grid=[3e-5, 2e-5, 1e-5, 3e-6]),
    "augmentation": Distribution(grid=["minimal", "medium", "strong"]),
    "mixup": Distribution(grid=[0, 0.5]),
}
_EXTREME_GRID = {
    **_STANDARD_GRID,
    "lr": Distribution(grid=[3e-4, 1e-4, 3e-5, 2e-5, 1e-5, 3e-6, 1e-6, 1e-7]),
}
# App. B of the MEHL-Soup paper: CLIP ViT-L/14, "standard CLIP-style image preprocessing" (for ImageNet RandAugment
# besides: configs/imagenet-vit-l-14.yaml). It names no schedule and no warm-up; ours are those of the other spaces.
_VIT_L_14 = {
    **_PLAIN,
    "lr": Distribution(choice=[1e-6, 3e-6, 5e-6, 1e-5, 2e-5, 3e-5]),
    "weight_decay": Distribution(choice=[0, 0.001, 0.003, 0.005, 0.01, 0.03]),
    "batch_size": _constant(128),
    "augmentation": _constant("minimal"),
}
# App. J.5 of the model-soups paper: of texts, which are not augmented. Adam without weight decay is AdamW with none.
_TEXT = {
    "lr": Distribution(loguniform=(1e-6, 1e-3)),
    "weight_decay": _constant(0),
    "epochs": Distribution(choice=[2, 3, 5]),
    "batch_size": Distribution(choice=[8, 16, 32, 64]),
    "label_smoothing": _constant(0),
    "schedule": _constant("linear"),
}
SPACES = {
    "random": Space(_RANDOM, num_trials=72),
    "standard-grid": Space(_STANDARD_GRID, num_trials=48),  # 24 combinations, two seeds
    # 48 combinations, one seed: the paper names two seeds for the standard grid alone.
    "extreme-grid": Space(_EXTREME_GRID, num_trials=48, include_initialization=True),
    "vit-l-14": Space(_VIT_L_14, num_trials=32),
    "text": Space(_TEXT, num_trials=32, warmup_fraction=0),
}
