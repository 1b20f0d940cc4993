"""The typed records that pass between the stages and that other programs may rely on.

Accuracies are fractions in [0, 1]. ``val_accuracy`` is measured on the ``fit`` part of the validation set, which soups
learn from; ``select_accuracy`` on the part that chooses the champion (None where ``data.select_fraction`` is 0);
``test_accuracy`` is reported and never used. Where another metric decides (`RunRecord.metric`), tables have columns
``val_score`` and so on beside them; what reads ``row.val_score`` gets what decides, in any run (see `score`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Optional, Self, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from pipeline.schedule import Schedule

RECORDS_VERSION = 2  # of the files in a run's folder and of what the registry holds; raise it when they change
_MOST_HOURS = 10**9  # of one trial
GPU_HOURS, CPU_CORE_HOURS = "GPU hours", "CPU core hours"  # the units of a cost


class Record(BaseModel):
    """A frozen row of a table; the order of its fields is the order of the columns.

    ``extra_columns`` are the types of columns that every table of a kind has beside its fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    extra_columns: ClassVar[Mapping[str, Any]] = {}


Precision: TypeAlias = Literal["float32", "bfloat16"]
Augmentation: TypeAlias = Literal["minimal", "medium", "strong", "randaugment"]
# What a hyperparameter is in a table: of one that is not known to this version, as it stands.
Scalar: TypeAlias = StrictBool | StrictInt | StrictFloat | StrictStr | None


class Hyperparameters(Record):
    """What a trial draws from the search space (App. J.2.1 and J.5 of the model-soups paper).

    ``mixup`` and ``cutmix`` are the parameters alpha of Beta distributions, 0 for none. ``augmentation`` is ``minimal``
    (a random crop of 90-100 % of the area), ``medium`` (timm's default: a crop of 8-100 %, flip, colour jitter) or
    ``randaugment`` (the minimal crop, then ``randaugment_n`` operations of magnitude ``randaugment_m`` out of 30);
    ``strong`` is ``randaugment`` with N = 2, M = 15. ``ema_decay`` above 0 makes the exponential moving average of the
    weights the ingredient (App. L). ``schedule`` is what follows the warm-up.

    What means nothing for a kind of input is not given, and is in no table (`given`).
    """

    lr: float = Field(ge=0, le=1e38, title="Learning rate")
    weight_decay: float = Field(ge=0, le=1e38)
    epochs: int = Field(ge=1, le=10**6)
    batch_size: int = Field(ge=1, le=10**9)
    label_smoothing: float = Field(ge=0, le=1)
    mixup: float = Field(0.0, ge=0, le=10**6)
    augmentation: Augmentation = "minimal"
    randaugment_m: int = Field(0, ge=0, le=30, title="RandAugment M")
    randaugment_n: int = Field(0, ge=0, le=100, title="RandAugment N")
    seed: int
    cutmix: float = Field(0.0, ge=0, le=10**6, title="CutMix")
    ema_decay: float = Field(0.0, ge=0, lt=1, title="EMA decay")
    schedule: Schedule = "cosine"

    @property
    def given(self) -> dict[str, Scalar]:
        """By name those that the trial was given, its seed among them: what tables and the registry show of it."""
        return self.model_dump(exclude_unset=True)


def _optional(field: FieldInfo) -> Any:
    """The field with None for its default, as `create_model` takes one."""
    optional = copy(field)
    optional.default = None
    return Optional[field.annotation], optional  # noqa: UP045 (made while running)


_KNOWN = Hyperparameters.model_fields.keys()
_Known: type[Record] = create_model(
    "_Known", __base__=Record, **{name: _optional(field) for name, field in Hyperparameters.model_fields.items()}
)


def known_hyperparameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Hyperparameters` out of ``values``, each checked as there, None for those that are missing.

    Raises ValidationError.
    """
    return _Known.model_validate({name: values[name] for name in values if name in _KNOWN}).model_dump()


def title_of(hyperparameter: str) -> str:
    """What tables and figures call a hyperparameter, one of a trainer's own too."""
    field = Hyperparameters.model_fields.get(hyperparameter)
    return (field and field.title) or hyperparameter.replace("_", " ").capitalize()


SCORES = ("val_score", "select_score", "test_score")


def score(row: Record, split: str) -> float | None:
    """What decides in the row's run, on ``val`` (that is `fit`), `select`, `test` or a shift: score, or accuracy.

    The score by the metric of the run has a column only where that is not accuracy.
    """
    column, own = f"{split}_score", row.__pydantic_extra__ or {}
    value: float | None = own[column] if column in own else getattr(row, f"{split}_accuracy")
    return value


class TrialOutcome(Record):
    """What a trial came to and what it cost.

    ``gpu_hours`` sums wall clock times reserved GPUs over all attempts, failed ones too; where ``device`` is ``cpu`` it
    counts CPU core hours. Where some attempts had a GPU and others had none, ``cpu_core_hours`` are those of the
    others, beside ``gpu_hours`` (see `costs`). Attempts on several kinds of device have their names joined by "and" as
    ``device``. ``path`` is the URI of the checkpoint in the artifact store. An imported checkpoint has the device
    ``imported`` and no ``theta0_sha256`` where its starting point is unknown. A trial that finished is ``left-out``
    where the settings name it in `soup.leave_out`: it has an ingredient, and no soup is made of it. One that
    `search.scheduler` ended is ``stopped``: it is measured as it was then, and an ingredient if its weights were kept.
    """

    trial_index: int
    status: Literal["finished", "stopped", "failed", "rejected", "left-out"]
    reason: str | None = None
    val_accuracy: float | None = Field(None, ge=0, le=1)
    select_accuracy: float | None = Field(None, ge=0, le=1)
    test_accuracy: float | None = Field(None, ge=0, le=1)
    gpu_hours: float = Field(ge=0, le=_MOST_HOURS)
    attempts: int
    images_seen: int = Field(ge=0, le=10**18)
    peak_memory_bytes: int | None = None
    device: str
    sha256: str | None = None
    theta0_sha256: str | None
    path: str | None = None
    model_version: int | None = None
    cpu_core_hours: float | None = Field(None, ge=0, le=_MOST_HOURS)

    @property
    def is_ingredient(self) -> bool:
        """Whether soups are made of it."""
        return self.status == "finished" or (self.status == "stopped" and self.sha256 is not None)


class IngredientRecord(TrialOutcome):
    """A row of ``ingredients.parquet``: one trial in search order, its outcome, then a column per hyperparameter.

    The columns are those of `Hyperparameters`, None where they are not known (of an imported checkpoint), then those
    that a trainer has of its own, as they stand: reading them needs no plug-in. So are the `SCORES`, if any.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Scalar]
    extra_columns: ClassVar[Mapping[str, Any]] = {
        name: field.annotation for name, field in Hyperparameters.model_fields.items()
    }

    @model_validator(mode="before")
    @classmethod
    def _check_hyperparameters(cls, values: Any) -> Any:
        outcome = {name: value for name, value in values.items() if name in cls.model_fields}
        own = {name: value for name, value in values.items() if name not in outcome and name not in _KNOWN}
        scores = {name: float(own.pop(name)) for name in SCORES if own.get(name) is not None}
        own = {name: value for name, value in own.items() if name not in SCORES}
        return {**outcome, **known_hyperparameters(values), **own, **scores}

    @property
    def hyperparameters(self) -> dict[str, Scalar]:
        """The hyperparameters by name, in the order of the columns; None: not known."""
        return {name: value for name, value in self.__pydantic_extra__.items() if name not in SCORES}

    @property
    def scores(self) -> dict[str, float]:
        """Those of the `SCORES` that it has by column; none where accuracy decides."""
        return {name: value for name in SCORES if isinstance(value := self.__pydantic_extra__.get(name), float)}

    @property
    def val_score(self) -> float | None:
        """What decides, on `fit`."""
        return score(self, "val")

    @property
    def select_score(self) -> float | None:
        """What decides, on `select`."""
        return score(self, "select")

    @property
    def test_score(self) -> float | None:
        """What decides, on `test`."""
        return score(self, "test")


class EpochRecord(Record):
    """How an epoch of a trial went: logged while the trial runs, in no table.

    ``data_wait`` is the share of the time in which the device had nothing to do because images were not there yet.
    """

    epoch: int
    train_loss: float
    learning_rate: float
    images_per_second: float
    data_wait: float


class Measured(Record):
    """A row that besides its own columns has a column ``<shift>_accuracy`` for each shift of the run.

    Where another metric than accuracy decides, it has a column ``<split>_score`` for each split and shift too.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    @model_validator(mode="after")
    def _only_accuracies(self) -> Self:
        if strange := [name for name in self.__pydantic_extra__ if not name.endswith(("_accuracy", "_score"))]:
            raise ValueError(f"unknown columns: {', '.join(strange)}")
        return self

    @property
    def scores(self) -> dict[str, float]:
        """What it has by another metric, by column; none where accuracy decides."""
        return {name: value for name, value in self.__pydantic_extra__.items() if name.endswith("_score")}

    @property
    def shift_accuracies(self) -> dict[str, float]:
        """Accuracy on each shift, by name."""
        own = self.__pydantic_extra__.items()
        return {name.removesuffix("_accuracy"): value for name, value in own if name.endswith("_accuracy")}

    @property
    def shift_scores(self) -> dict[str, float]:
        """What decides, on each shift, by name."""
        return {shift: score(self, shift) or 0.0 for shift in self.shift_accuracies}

    @property
    def val_score(self) -> float:
        """What decides, on `fit`."""
        return score(self, "val") or 0.0

    @property
    def select_score(self) -> float | None:
        """What decides, on `select`."""
        return score(self, "select")

    @property
    def test_score(self) -> float:
        """What decides, on `test`."""
        return score(self, "test") or 0.0


class SoupRecord(Measured):
    """A row of ``soups.parquet``: one method.

    ``num_selected`` counts the ingredients with a coefficient other than zero. ``gpu_hours`` is the cost of the whole
    sweep that the method had to be paid for, in the unit of `cost_unit`. ``epochs`` counts passes over the fit images
    that building it took, ``epochs_of_trials`` those that it needs too and the trials had made (their own accuracies);
    time counts the former alone. ``peak_memory_kind`` is ``cuda`` (the allocator's peak, all in all) or ``anon`` (peak
    of anonymous resident memory over its value at the start); ``peak_reserved_bytes`` is what the allocator held of a
    GPU for that, None without one and in older tables. ``block_size``, ``outer_iterations`` and ``inner_iterations``
    are the b, T and J that were used, None for methods without blocks; older tables have neither these nor
    ``epochs_of_trials``.
    """

    method: str
    num_ingredients: int
    num_selected: int
    val_accuracy: float
    select_accuracy: float | None
    test_accuracy: float
    gpu_hours: float
    construction_seconds: float
    epochs: float
    peak_memory_bytes: int
    peak_memory_kind: Literal["cuda", "anon"]
    peak_reserved_bytes: int | None = None
    epochs_of_trials: int | None = None
    block_size: int | None = None
    outer_iterations: int | None = None
    inner_iterations: int | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """The champion has the highest: `select` decides; `fit`, which soups learned from, where it cannot."""
        return self.select_score or 0.0, self.val_score


class SoupIngredient(Record):
    """An ingredient of a soup: its version in the registry, its checksum, its coefficient in each layer.

    ``trial_index`` is None for theta0. In an ensemble the coefficients weigh logits.
    """

    model_version: int
    trial_index: int | None
    sha256: str
    coefficients: list[float]


class LineageRecord(Record):
    """``lineage.json`` of a soup's run: all that is needed to make the soup again.

    ``learned_on`` is the hash of the `fit` split. ``precision`` is the arithmetic that it was measured in (older ones,
    which do not say, in float32) and learned in, unless ``settings`` have another. With wise-ft, coefficients sum to
    alpha, and theta0 has the rest.
    """

    method: str
    settings: dict[str, Any]
    seed: int
    learned_on: str
    precision: Precision = "float32"
    layers: list[str]
    ingredients: list[SoupIngredient]


DESCRIPTION_FILE = "description.json"  # of a `ModelDescription`, beside the weights that it belongs to


class ModelDescription(Record):
    """How to build the network of an ingredient or soup without this package, and what examples it takes.

    ``architecture`` are the arguments of open_clip's ``CLIP``, torchvision's ``get_model`` or timm's ``create_model``,
    ``config`` and ``pooling`` of a network of transformers, or what another backbone builds its network from;
    ``head_name`` is the layer of that network whose place the classification head has (None for CLIP and for text
    encoders: the head follows the tower, whose features are made unit vectors if ``normalize_features``).
    ``network_module`` is the module, shipped with a soup, that has ``build(architecture,
    head_name)``; it is empty in soups from before there was one. ``class_names`` are in label order.

    ``kind`` is what an example is. What else it has, flat, are `inputs`: plain values by which the ``reader_module``,
    shipped with a soup too, reads and prepares examples. Images are ``image_size`` pixels high and wide, their values
    in [0, 1] normalised by ``mean`` and ``std``.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Any]

    backbone: str
    architecture: dict[str, Any]
    head_name: str | None
    network_module: str = ""
    feature_dim: int
    normalize_features: bool
    kind: str = "images"
    reader_module: str = "decode"
    class_names: list[str]

    @property
    def inputs(self) -> dict[str, Any]:
        """By name what the kind of input says of its examples."""
        return dict(self.__pydantic_extra__)


class CostRecord(Measured):
    """A point of the cost curve (Fig. 2 of the MEHL-Soup paper).

    A soup of the first ``num_ingredients`` finished trials; ``gpu_hours`` is what all trials up to the last of them
    cost, failed ones too, in the unit of `cost_unit`; ``cpu_core_hours`` is what those without a GPU cost besides,
    where others had one. ``order_seed`` is None for search order. ``predictions`` is a table in the run's folder.
    ``gain_low`` to ``gain_high`` is the 95 % bootstrap interval over test images of what the test accuracy gained since
    the point before, ``select_gain_low`` to ``select_gain_high`` the same of `select`; None for the first.
    ``block_size`` is the b that was used, None for methods without blocks. Gains are those of what decides.
    """

    method: str
    num_ingredients: int
    gpu_hours: float
    val_accuracy: float
    select_accuracy: float | None
    test_accuracy: float
    order_seed: int | None = None
    predictions: str | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    select_gain_low: float | None = None
    select_gain_high: float | None = None
    cpu_core_hours: float | None = None
    block_size: int | None = None


class CostRatioRecord(Record):
    """What two methods cost at equal test accuracy (the "2.5x" of Fig. 2), from the points of the cost curve.

    ``accuracy`` is the highest that both reach in search order, the lower of ``best_accuracy`` and
    ``baseline_best_accuracy``; there ``method`` takes ``gpu_hours``, ``baseline`` ``baseline_gpu_hours``. ``ratio`` is
    how many times the hours of ``method`` ``baseline`` takes, over all ``orders`` of the trials, ``low`` to ``high``
    its 95 % bootstrap interval over test images and orders. Where another metric decides, the three accuracies are
    scores by that.
    """

    method: str
    baseline: str
    best_accuracy: float
    baseline_best_accuracy: float
    accuracy: float
    gpu_hours: float
    baseline_gpu_hours: float
    orders: int
    ratio: float
    low: float
    high: float


class VariantRecord(Measured):
    """A row of ``elimination.parquet``, ``ablation.parquet`` and ``wise_ft.parquet``: a soup with one thing changed.

    ``setting`` is what differs from the soup of ``method`` in ``soups.parquet``: the number of best ingredients
    ``eliminated``, ``alpha`` on the line from theta0, a setting of the method or the ``seed``. ``value`` is the one
    that was used: a block size above the number of ingredients is that number. ``is_default`` marks the run's own
    value. ``predictions`` is a table in the run's folder. The other columns are those of `SoupRecord`.
    """

    method: str
    setting: str
    value: str
    is_default: bool
    num_ingredients: int
    num_selected: int
    val_accuracy: float
    select_accuracy: float | None
    test_accuracy: float
    construction_seconds: float
    epochs: float
    peak_memory_bytes: int
    peak_memory_kind: Literal["cuda", "anon"]
    predictions: str
    peak_reserved_bytes: int | None = None
    epochs_of_trials: int | None = None
    block_size: int | None = None
    outer_iterations: int | None = None
    inner_iterations: int | None = None


class SimilarityRecord(Record):
    """Cosines between two ingredients, over all floating-point weights (App. D of the MEHL-Soup paper).

    ``weights`` is that of the weights themselves, ``from_mean`` of their differences to the mean (decentralized),
    ``from_theta0`` to the starting point, where that is known.
    """

    trial_index: int
    other_index: int
    weights: float
    from_mean: float
    from_theta0: float | None


class ComparisonRecord(Record):
    """Two methods on the same test images, of which each got ``wins`` or ``losses`` right that the other did not.

    ``difference`` is the test accuracy of ``method`` minus that of ``baseline``, ``low`` to ``high`` its 95 % bootstrap
    interval over test images. ``p_value`` is that of the exact McNemar test, ``p_adjusted`` the same corrected for all
    pairs of the run. Where another metric decides, the difference is that of scores, and the p-value that of the
    bootstrap.
    """

    method: str
    baseline: str
    difference: float
    low: float
    high: float
    wins: int
    losses: int
    p_value: float
    p_adjusted: float


class CoefficientRecord(Record):
    """A mixing coefficient (Eq. 4): within a layer, those of all trials sum to one."""

    trial_index: int
    layer: str
    coefficient: float


class PredictionRecord(Record):
    """What a method predicted for an image; ``image_index`` counts within ``split``: fit, select, test or a shift."""

    split: str
    image_index: int
    label: int
    prediction: int


class ConfusionRecord(Record):
    """How many ``images`` of `test` that are of the class ``label`` a method took for ``prediction`` (its own: right).

    Pairs of classes that never occurred have no row.
    """

    method: str
    label: int
    prediction: int
    images: int


class ShownExample(NamedTuple):
    """An example for people to look at: text as it is, anything else in base64."""

    media_type: str
    content: str


class ExampleRecord(Record):
    """An example of `test` that one of two methods got right and the other did not, for people to look at.

    ``image_index`` counts within `test`; ``media_type`` and ``content`` are those of `ShownExample`.
    """

    method: str
    baseline: str
    image_index: int
    label: int
    prediction: int
    baseline_prediction: int
    media_type: str
    content: str


class LossRecord(Record):
    """The loss on `fit` before a step of a method that learns in blocks; steps and blocks count from 0."""

    step: int
    block: int
    loss: float


class SplitRecord(Record):
    """A split of the images, or a shift: its size and the SHA-256 of its sorted source indices.

    ``images_sha256`` is that of the set that it is cut from, labels and pixels; None if an older version prepared it.
    """

    name: str
    size: int
    indices_sha256: str
    images_sha256: str | None = None


def run_page(tracking_uri: str, experiment_id: str, run_id: str) -> str | None:
    """The address of a run in MLflow's UI; None of a database, which has no address in a browser."""
    if not tracking_uri.startswith(("http://", "https://")):
        return None
    return f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


class RecordedRuns(Record):
    """The ids of a sweep's runs in MLflow as the report was made: of its soups by method, of its trials by index.

    ``tracking_uri`` is without user name and password.
    """

    tracking_uri: str
    experiment_id: str
    soups: dict[str, str]
    trials: dict[int, str]

    def page(self, run_id: str) -> str | None:
        """See `run_page`."""
        return run_page(self.tracking_uri, self.experiment_id, run_id)


class RunRecord(Record):
    """What a run was made with: everything needed to repeat it or to explain its figures.

    ``labels`` are the display names of the soup methods, so that a page can be made without those that are plug-ins.
    ``champion`` is the method of the soup with the best select accuracy, once there is one. ``theta0_gpu_hours`` is the
    cost of the shared starting point on ``theta0_device`` (``cpu``: CPU core hours, ``cuda``: GPU hours, None in older
    records: in the unit of `cost_unit`); it is part of no trial. Where ingredients were imported it is None, and
    without --theta0 the rest that is said of theta0 too. Its accuracy on `fit` (``theta0_val_accuracy``), `select` and
    the shifts is not known of runs from before it was recorded. ``price_per_gpu_hour`` is the price of a unit of
    `cost_unit`, in any currency. ``precision`` is the arithmetic of everything, from the first call on, whatever device
    later ones have; runs that do not say were measured in float32. ``metric`` is what decides, ``metric_label`` what
    people read; ``theta0_scores`` by split (``val`` for `fit`) are those of theta0, where that is not accuracy.
    ``example`` is what people call what is classified, ``examples`` several. ``stopped`` is why `search.stop` ended the
    sweep before its last trial, None where it did not. ``recorded`` is None until there is a report.
    """

    records_version: int
    name: str
    sweep_id: str
    seed: int
    started: str
    git_commit: str | None
    versions: dict[str, str]
    machine: str
    class_names: list[str]
    splits: list[SplitRecord]
    theta0_sha256: str | None
    theta0_gpu_hours: float | None
    theta0_test_accuracy: float | None
    theta0_val_accuracy: float | None = None
    theta0_select_accuracy: float | None = None
    theta0_shift_accuracies: dict[str, float] = {}
    champion: str | None = None
    price_per_gpu_hour: float | None = None
    labels: dict[str, str] = {}
    theta0_device: str | None = None
    precision: Precision = "float32"
    metric: str = "accuracy"
    metric_label: str = "accuracy"
    theta0_scores: dict[str, float] = {}
    example: str = "image"
    examples: str = "images"
    stopped: str | None = None
    recorded: RecordedRuns | None = None

    @property
    def theta0_figures(self) -> dict[str, float]:
        """What is known of theta0's accuracies and cost, under the names that they have in a `SoupRecord`."""
        names = ("val_accuracy", "select_accuracy", "test_accuracy", "gpu_hours")
        known = {name: getattr(self, f"theta0_{name}") for name in names}
        scores = {f"{split}_score": value for split, value in self.theta0_scores.items() if f"{split}_score" in SCORES}
        return {name: value for name, value in known.items() if value is not None} | scores

    def theta0_score(self, split: str) -> float | None:
        """What decides, of theta0, on ``val`` (that is `fit`), `select`, `test` or a shift; None: not known."""
        if split in self.theta0_scores:
            return self.theta0_scores[split]
        known = {"val": self.theta0_val_accuracy, "select": self.theta0_select_accuracy}
        return {**self.theta0_shift_accuracies, **known, "test": self.theta0_test_accuracy}.get(split)


R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class RunResults:
    """All records of a run, ``coefficients`` and ``losses`` by method, the tables of studies by name.

    What is not there yet is empty.
    """

    run: RunRecord
    ingredients: list[IngredientRecord] = field(default_factory=list)
    soups: list[SoupRecord] = field(default_factory=list)
    coefficients: dict[str, list[CoefficientRecord]] = field(default_factory=dict)
    studies: dict[str, list[Any]] = field(default_factory=dict)
    losses: dict[str, list[LossRecord]] = field(default_factory=dict)

    def table(self, name: str, kind: type[R]) -> list[R]:
        """The rows of a study's table; none while there is no such table. Raises TypeError for rows of another kind."""
        rows = self.studies.get(name, [])
        if strangers := [type(row).__name__ for row in rows if not isinstance(row, kind)]:
            raise TypeError(f"table {name} holds {strangers[0]}, not {kind.__name__}")
        return rows


def costs(ingredients: Iterable[IngredientRecord]) -> dict[str, float]:
    """What trials cost by unit, ``GPU hours`` first, and ``CPU core hours``; a unit in which nothing ran is left out.

    The two are never added: where some trials, or attempts of one, had a GPU and others had none, both are there.
    """
    rows = list(ingredients)
    # An imported checkpoint may have cost CPU core hours alone.
    on_gpu = [row.gpu_hours for row in rows if row.device != "cpu" and (row.gpu_hours or row.cpu_core_hours is None)]
    on_cpu = [row.gpu_hours for row in rows if row.device == "cpu"]
    on_cpu += [row.cpu_core_hours for row in rows if row.cpu_core_hours is not None]
    return {unit: sum(hours) for unit, hours in ((GPU_HOURS, on_gpu), (CPU_CORE_HOURS, on_cpu)) if hours}


def cost_unit(ingredients: Iterable[IngredientRecord]) -> str:
    """The unit that curves, ratios and ``gpu_hours`` of soups count in: the first of `costs`, ``GPU hours`` if none."""
    return next(iter(costs(ingredients)), GPU_HOURS)


def cost_by_device(ingredients: Iterable[IngredientRecord]) -> dict[str, float]:
    """The sum of ``gpu_hours`` on each kind of GPU, the dearest first."""
    total: dict[str, float] = {}
    for row in ingredients:
        if row.device != "cpu":
            total[row.device] = total.get(row.device, 0.0) + row.gpu_hours
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def trials_up_to(ingredients: Iterable[IngredientRecord], num_finished: int) -> list[IngredientRecord]:
    """The trials in the order given, failed ones too, up to the ``num_finished``-th finished one.

    Raises ValueError when fewer than ``num_finished`` trials finished.
    """
    rows: list[IngredientRecord] = []
    seen = 0
    for row in ingredients:
        rows.append(row)
        seen += row.is_ingredient
        if seen == num_finished:
            return rows
    raise ValueError(f"only {seen} trials finished, {num_finished} asked for")


def cumulative_gpu_hours(ingredients: Sequence[IngredientRecord], num_finished: int) -> float:
    """Cost of `trials_up_to` the ``num_finished``-th, in the unit of all of them (see `cost_unit`).

    Raises ValueError when fewer than ``num_finished`` trials finished.
    """
    return costs(trials_up_to(ingredients, num_finished)).get(cost_unit(ingredients), 0.0)
