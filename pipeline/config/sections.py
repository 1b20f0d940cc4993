"""The sections of the settings, each field with its meaning and default.

Every path in a loaded `Config` is absolute: Tune changes the working directory of its trials.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from pipeline.config.base import (
    HIGHEST_SEED,
    MOST,
    AbsolutePath,
    Count,
    HasSettings,
    MethodName,
    Once,
    Paths,
    Section,
    Whole,
    context,
    home,
    known,
    method_settings,
    nearest,
)
from pipeline.config.spaces import WARMUP_FRACTION, Distribution, Space, unfit
from pipeline.errors import quoted
from pipeline.files import absolute_path, sqlite_path, sqlite_uri
from pipeline.records import Precision

_MOST_COMBINATIONS = 100_000  # of grids
_LARGEST_FLOAT = 1e38  # of 32 bits
_LARGEST_DIMENSION = 10**6  # vocabularies have hundreds of thousands of words


def _size(value: Any) -> int | float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= MOST
        or not (isinstance(value, int) or value < 1)
    ):
        raise ValueError(f"must be a count of images (500) or a fraction between 0 and 1 (0.1), got {quoted(value)}")
    return value


def _name_or_folder(value: str) -> str:
    is_folder = value.startswith(("/", ".", "~")) or ("/" in value and absolute_path(value).is_dir())
    return str(absolute_path(value)) if is_folder else value


Size = Annotated[int | float, PlainValidator(_size)]


class DataConfig(Section):
    """Which data, and how they are split. A size is a count (500) or a fraction (0.1)."""

    source: Annotated[str, known("sources")]
    """`digits`, `cifar10`, `cifar100`, `imagenet`, `image_folder` or `parquet`; of texts `text_table`."""
    train: Paths | None = None
    """Training data: a Parquet file or a folder of them (`parquet`; `text_table` takes CSV and TSV too), a folder with
    one folder per class (`image_folder`); a list or a glob (`/data/part-*.parquet`) of such."""
    test: Paths | None = None
    """Test data, in the same form as `train`."""
    shifts: dict[Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$", max_length=100)], Paths] = Field({})
    """Other test sets of the same classes by name, each in a form that `train` may have: every soup is measured on them
    too (`<name>_accuracy`), nothing is chosen by them."""
    metric: Annotated[str, known("metrics")] = "accuracy"
    """What decides: `accuracy`, `balanced_accuracy`, `f1` (of the second of two classes), `macro_f1` (mean over the
    classes that are there), `matthews` (correlation) or `accuracy_and_f1` (their mean)."""
    image_column: str | None = None
    """Column of Parquet files with the images, encoded (JPEG, PNG, ...) bytes; default: `image`."""
    text_column: str | None = None
    """Column of tables with the texts; default: `text`."""
    text_pair_column: str | None = None
    """Column with the second text of each example, where there are two."""
    tokenizer: Annotated[str, AfterValidator(_name_or_folder)] | None = None
    """Tokenizer of texts: that of the model, a folder or a name on the Hugging Face hub; every source of texts needs
    it."""
    max_length: Count | None = Field(None, ge=2, le=2**17)
    """Tokens of a text, or of two together; longer ones are cut off; default: 128."""
    label_column: str | None = None
    """Column of tables with the classes, numbers from 0 or names; default: `label`."""
    root: AbsolutePath | None = None
    """Where torchvision keeps (or downloads) `cifar10` and `cifar100`; the folder of `imagenet` with `train`, `val`."""
    store: AbsolutePath | None = None
    """Where decoded, resized images and tokenised texts are kept, shared by all runs; default: `prepared-data` beside
    the output folder."""
    memory_gib: float | None = Field(None, gt=0, le=MOST)
    """Training data that take more, decoded, are streamed from `store`, which all nodes must then see; default: half
    of Ray's object store on the smallest node."""
    image_size: Count | None = Field(None, gt=0, le=2048)
    """Height and width of the prepared images in pixels; every source of images needs it."""
    max_pixels: Count | None = Field(None, gt=0)
    """Images with more pixels are not decoded: one takes up to 16 bytes for each, on every core at once; default:
    178956970."""
    class_names: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), Once] | None = None
    """Names of the classes in label order, where the source does not know them or knows worse ones."""
    train_size: Size | None = None
    """Use only this many training images; default: all that the other splits leave."""
    validation_size: Size = 0.1
    """Cut from the training set; soups learn from it. The papers have 2 % of ImageNet and 10 % of CIFAR."""
    select_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of validation kept from the soups to choose the champion; 0 is the papers' protocol."""
    pretrain_size: Size | None = None
    """Cut from the training set for `model.contrastive`, which makes the starting point."""
    test_size: Size | None = None
    """Cut from the only set of a source that has no test set (`digits`); elsewhere: a limit on the test images."""

    @model_validator(mode="after")
    def _needs(self, info: ValidationInfo) -> DataConfig:
        missing = [key for key in context(info).sources[self.source] if getattr(self, key) is None]
        if missing:
            raise ValueError(f"source '{self.source}' needs {' and '.join(f'data.{key}' for key in missing)}")
        if taken := sorted({"pretrain", "train", "fit", "select", "test", "val"} & self.shifts.keys()):
            raise ValueError(f"data.shifts: {', '.join(taken)} names a split of every run; give another name")
        return self


class ContrastiveConfig(Section):
    """Contrastive image-text training that makes a small CLIP starting point where none can be downloaded."""

    epochs: Count = Field(30, ge=1)
    """Passes over the `pretrain` split."""
    batch_size: Count = Field(100, ge=2)
    """Image-caption pairs per step."""
    lr: float = Field(1e-3, gt=0, le=_LARGEST_FLOAT)
    """Peak learning rate of AdamW."""


_Brightness = Annotated[float, Field(ge=0, le=1)]
_Spread = Annotated[float, Field(gt=0, le=1)]


class ModelConfig(Section):
    """The backbone, its starting weights and the classification head."""

    backbone: Annotated[str, known("backbones")]
    """`open_clip`, `torchvision` or `timm` for images, `transformers` for texts."""
    name: Annotated[str, AfterValidator(_name_or_folder)] | None = None
    """Name of a model of that library, e.g. `ViT-B-32` or `resnet101`; of `transformers` also its folder."""
    pooling: Literal["cls", "mean", "classifier"] | None = None
    """What a text encoder's features are: the first token's, the mean of all, or what transformers' own classifier
    (`BertForSequenceClassification`) gives to its last layer; default: what its folder says, else `cls`."""
    architecture: dict[str, Any] | None = None
    """A small open_clip model instead of a name: `embed_dim`, `vision_cfg` and, for zero-shot heads, `text_cfg`."""
    pretrained: str | None = None
    """Pretrained tag (`openai`, `DEFAULT`; downloaded once) or path of local weights, such as a soup of another run;
    default: random weights."""
    head: Literal["linear_probe", "zero_shot", "random"] = "linear_probe"
    """How the classification head of theta0 starts; the model-soups paper uses a linear probe, here with the L2
    strength that suits held-out training images best."""
    templates: list[str] | None = Field(None, min_length=1)
    """Captions for zero-shot heads and contrastive training; `{}` stands for the class name. Default:
    `a photo of a {}.`, for ImageNet's classes the 80 templates and the names that CLIP was evaluated with."""
    mean: Annotated[tuple[_Brightness, _Brightness, _Brightness], Field(strict=False)] | None = None
    """Input normalisation; default: what the pretrained weights were trained with."""
    std: Annotated[tuple[_Spread, _Spread, _Spread], Field(strict=False)] | None = None
    """Input normalisation, as `mean`."""
    contrastive: ContrastiveConfig | None = None
    """Train the image and text tower on the `pretrain` split before the search."""

    @property
    def weight_file(self) -> Path | None:
        """Where the starting weights are, unless they have a tag or there are none."""
        path = None if self.pretrained is None else Path(self.pretrained)
        return path if path is not None and path.is_absolute() else None

    @property
    def weight_tag(self) -> str | None:
        """The tag of the starting weights, unless they are in a file or there are none."""
        return self.pretrained if self.weight_file is None else None

    @field_validator("pretrained")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        is_path = value is not None and ("/" in value or Path(value).suffix in {".pt", ".pth", ".bin", ".safetensors"})
        return str(absolute_path(str(value))) if is_path else value

    @field_validator("architecture")
    @classmethod
    def _buildable(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        for number in _numbers(value):
            if not abs(number) <= _LARGEST_DIMENSION:
                raise ValueError(f"{quoted(number)} is no size of a part of a network")
        return value

    @field_validator("templates")
    @classmethod
    def _placeholder(cls, value: list[str] | None) -> list[str] | None:
        for template in value or ():
            if "{}" not in template:
                raise ValueError(f"{quoted(template)} lacks the placeholder {{}} for the class name")
        return value

    @model_validator(mode="after")
    def _one_architecture(self) -> ModelConfig:
        if (self.name is None) == (self.architecture is None):
            raise ValueError("give either model.name or model.architecture")
        if (self.mean is None) != (self.std is None):
            raise ValueError("give model.mean and model.std together")
        return self


def _numbers(value: Any) -> Iterator[int | float]:
    """All numbers in plain values."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
    elif isinstance(value, int | float):
        yield value


def _storage(value: str) -> str:
    if "://" not in value:
        return str(absolute_path(value, home()))
    parts = urlsplit(value)
    secrets = [key for key in parse_qs(parts.query) if re.search("secret|sig|key|token|password", key, re.IGNORECASE)]
    # In other schemes a user name may be the container.
    if secrets or parts.password is not None or (parts.scheme == "s3" and parts.username is not None):
        raise ValueError("holds credentials, which would be saved with the run; give them in the environment")
    return value


class StopConfig(Section):
    """When a sweep ends before its last trial: of trials under way none is lost, and without these it goes on."""

    max_gpu_hours: float | None = Field(None, gt=0, le=MOST)
    """When the next trial would make the sweep cost more GPU hours (CPU core hours, where no trial has a GPU), by what
    an epoch of the trials so far cost."""
    max_price: float | None = Field(None, gt=0, le=MOST)
    """The same as a price, by `report.price_per_gpu_hour`."""
    min_gain: float | None = Field(None, gt=0, le=1)
    """When soups do not get better by so much (0.001: a tenth of a point) on `select` in `per_gpu_hours` any more: when
    the upper end of the 95 % interval of the gain is lower, for all methods of a live `study.cost_accuracy`."""
    per_gpu_hours: float = Field(1.0, gt=0, le=MOST)
    """GPU hours (CPU core hours) in which `min_gain` is to be gained."""
    patience: Count = Field(2, ge=1)
    """In so many points of the curve, one after the other, the gain has been lower."""

    @model_validator(mode="after")
    def _of_a_gain(self) -> StopConfig:
        fields = type(self).model_fields
        changed = [name for name in ("per_gpu_hours", "patience") if getattr(self, name) != fields[name].default]
        if self.min_gain is None and changed:
            raise ValueError(f"{' and '.join(changed)} without min_gain is no rule; give that too, or leave it out")
        return self

    @property
    def is_given(self) -> bool:
        """Whether there is any rule."""
        return any(limit is not None for limit in (self.max_gpu_hours, self.max_price, self.min_gain))


class SearchConfig(Section):
    """The sweep: what is drawn, how often, and what each trial may use."""

    trainer: Annotated[str, known("trainers")] = "finetune"
    """The training function."""
    space: Annotated[str, known("spaces")] = "random"
    """`random`, `standard-grid`, `extreme-grid` (App. J.2.1 of the model-soups paper), `text` (App. J.5 there) or
    `vit-l-14` (App. B of the MEHL-Soup paper); default: `random`, of texts `text`."""
    distributions: dict[str, Distribution] = Field({}, validate_default=True)
    """Hyperparameters drawn otherwise than the space says, e.g. `{lr: {loguniform: [1e-4, 1e-2]}, batch_size: 64}`."""
    num_trials: Count = Field(72, ge=1, le=10_000)
    """Size of the sweep; raised later, the sweep is extended. Default: what the space has in the paper (`random` 72,
    `standard-grid` 48, two seeds of each combination; `text` 32; `vit-l-14` 32, on ImageNet 8 there); of
    `extreme-grid`, whose seeds the paper does not count, 48: one of each."""
    gpus_per_trial: float | None = Field(None, ge=0, le=MOST)
    """GPUs reserved for a trial, fractions share one; default: 1 where the cluster has GPUs, else 0."""
    cpus_per_trial: Count = Field(1, ge=1)
    """CPU cores reserved for a trial."""
    max_failures: Count = Field(2, ge=0)
    """How often a crashed trial is tried again, from its last saved epoch."""
    storage: Annotated[str, AfterValidator(_storage)] | None = None
    """Where unfinished trials keep their last epoch and their cost, so that they go on on another node: a folder that
    all nodes see, or a URI that pyarrow.fs or fsspec opens (`s3://bucket/path`); default: `trials` in `output`. Such a
    folder keeps the blocks of unfinished soups too, which with a URI go on on the same node alone."""
    warmup_fraction: float = Field(WARMUP_FRACTION, ge=0, lt=1)
    """Share of the steps over which the learning rate rises before it decays. The papers name no warm-up; the released
    code of model-soups has one of 500 steps. Default: 0 in the space `text`."""
    gradient_clip: float = Field(1.0, gt=0, le=_LARGEST_FLOAT)
    """Largest norm of the gradient: 1 for texts in the paper, which names none for images; its released code has 1."""
    precision: Precision | None = None
    """Arithmetic of the steps of trials, where it is to be another than `precision`, in which they are evaluated."""
    compile: bool = False
    """Train through torch.compile: up to a minute at the start of a trial, faster steps (CPUs need a C++ compiler)."""
    stop: StopConfig = StopConfig()
    algorithm: Literal["random", "optuna"] = "random"
    """`optuna`: after ten random trials, what varies is suggested by Optuna's TPE sampler from what those that ended
    had on `fit`: equal results with one trial at a time only."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha`: Tune's asynchronous successive halving. After 1, 4, 16, ... epochs a trial ends that is not in the best
    quarter of those that came so far, by `select` (by `fit` where there is none). Which these are depends on the
    order in which trials come there: equal results with one trial at a time only."""
    keep_stopped: bool = False
    """Whether trials that the scheduler ended are ingredients too."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_space(cls, values: Any, info: ValidationInfo) -> Any:
        space = _space(values, info) if isinstance(values, dict) else None
        if space is None:
            return values
        return {"num_trials": space.num_trials, "warmup_fraction": space.warmup_fraction, **values}

    @field_validator("distributions")
    @classmethod
    def _hyperparameters(cls, value: dict[str, Distribution], info: ValidationInfo) -> dict[str, Distribution]:
        if not {"trainer", "space"} <= info.data.keys():  # one of them is wrong, which is told already
            return value
        fields = context(info).trainers[info.data["trainer"]].model_fields
        drawn = context(info).spaces[info.data["space"]].distributions.keys() | value.keys()
        valid = [name for name in fields if name != "seed"]
        problems = [
            f"{quoted(name)} is no hyperparameter; {nearest(name, valid)}" for name in value if name not in valid
        ]
        problems += [problem for name in value if name in valid for problem in unfit(name, fields[name], value[name])]
        problems += [
            f"trainer '{info.data['trainer']}' needs '{name}' too; say how it is drawn"
            for name in valid
            if fields[name].is_required() and name not in drawn
        ]
        space = {**context(info).spaces[info.data["space"]].distributions, **value}
        combinations = math.prod(len(distribution.grid or [0]) for distribution in space.values())
        if combinations > _MOST_COMBINATIONS:
            problems.append(
                f"the grids have {quoted(combinations)} combinations, and there may be {_MOST_COMBINATIONS}; draw some "
                "by choice"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return value

    @model_validator(mode="after")
    def _schedulable(self, info: ValidationInfo) -> SearchConfig:
        if self.scheduler == "none" and self.keep_stopped:
            raise ValueError("keep_stopped is true, and without search.scheduler=asha no trial is ended early")
        epochs = {**context(info).spaces[self.space].distributions, **self.distributions}.get("epochs")
        if self.scheduler == "asha" and epochs is not None and epochs.largest <= 1:
            raise ValueError("scheduler asha compares trials after their first epoch, and these have no second one")
        return self


def _space(search: dict[str, Any], info: ValidationInfo) -> Space | None:
    """The space that unchecked settings of the search name, None for a name that does not exist."""
    name = search.get("space", SearchConfig.model_fields["space"].default)
    return context(info).spaces.get(name) if isinstance(name, str) else None


class SoupConfig(Section):
    """Which soups are built."""

    methods: Annotated[list[MethodName], Once] = Field(
        ["best-individual", "uniform", "greedy", "mehl", "mehl-plus", "ensemble"], min_length=1
    )
    """Methods by name, in the order of the table."""
    settings: dict[MethodName, dict[str, Any]] = Field({})
    """Settings of a method where they differ from its defaults, e.g. `{mehl-plus: {learning_rate: 0.05}}`."""
    include_initialization: bool = False
    """Offer theta0 as an ingredient too, which `best-individual` may then be; default: only in the space
    `extreme-grid`."""
    damaged: Literal["stop", "skip"] = "stop"
    """What an ingredient whose file is missing or was changed does: `stop` the stage, or it is left out (`skip`)."""

    leave_out: Annotated[list[StrictInt | StrictStr], Once] = Field([])
    """Ingredients that no soup and no study is made of, by the index of their trial or, of imported ones, by file name:
    `[3, model_7.pt]`. They keep their row, and what they cost counts."""

    @model_validator(mode="after")
    def _resolve(self, info: ValidationInfo) -> SoupConfig:
        problems, resolved = [], {}
        for method in dict.fromkeys([*self.methods, *self.settings]):
            try:
                resolved[method] = method_settings(method, self.settings.get(method, {}), context(info).methods[method])
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        object.__setattr__(self, "settings", resolved)
        return self


class StudyConfig(Section):
    """Studies over a finished sweep; see `config_type` for its fields."""


class ReportConfig(Section):
    """What the report says beside the records."""

    price_per_gpu_hour: float | None = Field(None, gt=0, le=MOST)
    """Price of an hour of a GPU (of a CPU core, where trials ran without GPUs), in any currency."""


class RegistryConfig(Section):
    """Where trials, ingredients and soups are recorded."""

    tracking_uri: str | None = None
    """MLflow tracking server; default: `$MLFLOW_TRACKING_URI`, else SQLite beside the output folder."""


class Config(Section):
    """All settings of a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=150)]
    """Names the MLflow experiment and the models `<name>-ingredient` and `<name>-soup`."""
    seed: Whole = Field(0, ge=0, le=HIGHEST_SEED)
    """Everything random follows from it."""
    precision: Precision | None = None
    """Arithmetic of all that trains, learns, scores and evaluates models: `float32` (never TF32) or `bfloat16`
    (autocast), which CPUs that have instructions for it compute faster too; default: bfloat16 for a run that begins on
    GPUs, else float32. `search.precision` and the `precision` of a soup method may set another to learn in."""
    plugins: Annotated[list[str], Once] = Field([])
    """Modules that are imported first, by every process of the run; they add backbones, data sources, soup methods,
    training functions and studies, whose names may then stand in the other settings."""
    output: Path = Field(Path(), strict=False)
    """Folder of the run; default `runs/<name>`. Inside a Ray job a relative one is resolved against
    `$PIPELINE_HOME`, else `~/pipeline-runs`."""
    data: DataConfig
    model: ModelConfig
    search: SearchConfig = SearchConfig.model_construct()
    soup: SoupConfig
    study: StudyConfig = StudyConfig.model_construct()
    report: ReportConfig = ReportConfig.model_construct()
    registry: RegistryConfig = RegistryConfig.model_construct()

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, values: Any, info: ValidationInfo) -> Any:
        # `soup` has defaults that depend on tables: build it even where the file leaves it out.
        if not isinstance(values, dict):
            return values
        soup, search, data = ({} if values.get(key) is None else values[key] for key in ("soup", "search", "data"))
        source = data.get("source") if isinstance(data, dict) else None
        if isinstance(search, dict) and isinstance(source, str) and source in context(info).own_spaces:
            search = {"space": context(info).own_spaces[source], **search}
        if isinstance(soup, dict) and isinstance(search, dict) and "include_initialization" not in soup:
            space = _space(search, info)
            soup = {**soup, "include_initialization": space is not None and space.include_initialization}
        return {**values, "soup": soup, "search": search}

    @model_validator(mode="after")
    def _meaningful(self, info: ValidationInfo) -> Config:
        meaningless = context(info).meaningless.get(self.data.source, ())
        if found := [name for name in self.search.distributions if name in meaningless]:
            raise ValueError(
                f"search.distributions: {', '.join(found)}: without a meaning for what source '{self.data.source}' "
                "holds; leave out"
            )
        return self

    @model_validator(mode="after")
    def _priced(self) -> Config:
        if self.search.stop.max_price is not None and self.report.price_per_gpu_hour is None:
            raise ValueError("search.stop.max_price: needs report.price_per_gpu_hour, the price of an hour")
        return self

    @model_validator(mode="after")
    def _resolve_studies(self, info: ValidationInfo) -> Config:
        known_names, problems, resolved = context(info), [], {}
        for name, study in known_names.studies.items():
            if study.resolve is not None:
                try:
                    resolved[section_name(name)] = study.resolve(self.study_settings(name), self, known_names)
                except ValueError as error:
                    problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        object.__setattr__(self, "study", self.study.model_copy(update=resolved))
        return self

    def study_settings(self, name: str) -> Any:
        """The section of the study ``name``, None for one without settings."""
        return getattr(self.study, section_name(name), None)

    @model_validator(mode="after")
    def _resolve_paths(self) -> Config:
        try:
            output = absolute_path(self.output if self.output != Path() else Path("runs") / self.name, home())
        except ValueError as error:
            raise ValueError(f"output: {error}") from error
        object.__setattr__(self, "output", output)
        if self.data.store is None:
            store = self.output.parent / "prepared-data"
            object.__setattr__(self, "data", self.data.model_copy(update={"store": store}))
        uri = self.registry.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        uri = uri or sqlite_uri(self.output.parent / "mlflow.db")
        try:
            password = urlsplit(uri).password
        except ValueError as error:
            raise ValueError(f"registry.tracking_uri: {quoted(uri)} is no address ({error})") from error
        if password is not None:
            raise ValueError(
                "registry.tracking_uri: holds a password, which would be saved with the run; set it in the environment "
                "as MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, PGPASSWORD for PostgreSQL"
            )
        if (database := sqlite_path(uri)) is not None:  # workers have other working directories
            try:
                uri = sqlite_uri(absolute_path(database, home()))
            except ValueError as error:
                raise ValueError(f"registry.tracking_uri: {error}") from error
        object.__setattr__(self, "registry", self.registry.model_copy(update={"tracking_uri": uri}))
        if self.model.contrastive and self.data.pretrain_size is None:
            raise ValueError("model.contrastive needs data.pretrain_size")
        return self


def section_name(study: str) -> str:
    """What the section of a study is called in the settings: `cost_accuracy` of ``cost-accuracy``."""
    return study.replace("-", "_")


def config_type(studies: Mapping[str, HasSettings]) -> type[Config]:
    """`Config` with a section in `study` for every one of ``studies`` that takes settings."""
    sections: dict[str, Any] = {}
    for name, study in studies.items():
        if study.settings is not None:
            default = TypeAdapter(study.settings).validate_python({})
            sections[section_name(name)] = (study.settings, default)
    section = create_model("StudyConfig", __base__=StudyConfig, **sections)
    section.__doc__ = "Studies over a finished sweep."
    return create_model("Config", __base__=Config, study=(section, section.model_construct()))
