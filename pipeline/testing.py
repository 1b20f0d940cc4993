"""What every line of METHODS, BACKBONES, KINDS, SOURCES, METRICS and TRAINERS owes to the rest: tests of objects.

For our lines and for those of others. In a test of one's own:

    @pytest.mark.parametrize("check", METHOD_CHECKS)
    def test_my_method(check, tmp_path):
        check(METHODS["mine"], tmp_path)

Settings that a check asks for are made without a file: ``DataConfig.model_construct(source="mine", image_size=8)``,
``ModelConfig.model_construct(backbone="mine", architecture={"width": 6})``, both of `pipeline.config`.

Each check raises AssertionError that says what is owed.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import importlib.metadata
import io
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from pipeline.config import DataConfig, ModelConfig, SearchConfig
from pipeline.data import KINDS, ExampleSet, Splits, kind_of
from pipeline.data.kinds import Kind, ReaderModule
from pipeline.data.sources import SOURCES, Chunk, Source
from pipeline.errors import TrialRejected
from pipeline.finetune import Finetuned, Trainer
from pipeline.metrics import METRICS, Metric
from pipeline.models import build_classifier, describe_model
from pipeline.models.backbone import backbone_file, backbone_module, load_backbone
from pipeline.records import EpochRecord, Hyperparameters, IngredientRecord, ModelDescription
from pipeline.records.tables import read_table, write_table
from pipeline.soups import IngredientSet, Method, Soup, SoupInputs, soup_from_coefficients
from pipeline.weights import save_weights, unique_state

_CLASSES = 4
_CLASS_NAMES = ("a", "b", "c", "d")

# --- Soup methods ---------------------------------------------------------------------------------------------------


class _Blocks(nn.Module):
    """Two transformer-like blocks with dropout, a tensor that no ingredient changes, BatchNorm where it is asked for.

    Inputs (B, 6) to logits (B, 4).
    """

    def __init__(self, *, normalized: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.5)) for _ in range(2))
        self.norm: nn.Module = nn.BatchNorm1d(6) if normalized else nn.Identity()
        self.frozen = nn.Linear(6, 6)
        self.head = nn.Linear(6, _CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        hidden = inputs
        for block in self.blocks:
            hidden = hidden + block(hidden)
        logits: Tensor = self.head(self.frozen(self.norm(hidden)))
        return logits


def soup_inputs(folder: Path, count: int = 5, *, normalized: bool = False) -> SoupInputs:
    """What a method gets: a tiny model, ``count`` ingredients around it as files in ``folder``, 40 fit inputs.

    With ``normalized`` the model has BatchNorm, whose statistics are to be set anew for every soup.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Blocks(normalized=normalized)
    paths = []
    for k in range(count):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for name, value in state.items():
            if value.is_floating_point() and not name.startswith("frozen"):
                noise = 0.3 * torch.randn(value.shape, generator=generator)
                value += noise.abs() if name.endswith("running_var") else noise
        paths.append(folder / f"{k}.safetensors")
        save_weights(state, paths[-1], {"theta0_sha256": "0", "class_names": json.dumps(_CLASS_NAMES)})
    labels = torch.randint(_CLASSES, (40,), generator=generator)
    centres = torch.randn(_CLASSES, 6, generator=generator)
    inputs = centres[labels] + 0.5 * torch.randn(40, 6, generator=generator)

    def recalibrate(loaded: nn.Module) -> None:
        norm = loaded.get_submodule("norm")
        norm.reset_running_stats()  # type: ignore[operator]
        norm.train()
        loaded(inputs)

    return SoupInputs(
        model=model,
        ingredients=IngredientSet.open(paths),
        fit=(inputs, labels),
        theta0=copy.deepcopy(model.state_dict()),
        recalibrate=recalibrate if normalized else None,
    )


def check_method_gives_a_whole_soup(method: Method, folder: Path) -> None:
    """Coefficients (K, L) that sum to one in each layer (but see `Method.needs_theta0`) and give the weights again."""
    inputs = soup_inputs(folder)
    soup = method(inputs)
    assert soup.method == method.name, "a soup has its method's name; `Method` sets it"
    assert method.label, "label: what tables and figures call the method"
    assert soup.coefficients.shape == (5, len(soup.layers)), "coefficients are (K, L)"
    assert soup.coefficients.dtype == torch.float64
    assert soup.coefficients.isfinite().all()
    if not method.needs_theta0:
        torch.testing.assert_close(soup.coefficients.sum(dim=0), torch.ones(len(soup.layers), dtype=torch.float64))
    assert soup.selected, "selected: the ingredients with a coefficient other than zero"
    assert soup.seconds > 0
    assert soup.peak_memory_bytes >= 0
    assert soup.epochs >= 0
    if soup.state_dict is None:
        assert soup.layers == ("model",), "the coefficients of an ensemble weigh the logits of whole models"
        return
    origin = inputs.theta0 if method.needs_theta0 else None
    again = soup_from_coefficients(inputs.ingredients, soup.coefficients, soup.layers, origin)
    assert list(soup.state_dict) == list(inputs.ingredients.names)
    for name, tensor in soup.state_dict.items():
        assert torch.equal(tensor, again[name]), f"{name}: `soup_from_coefficients` gives other weights"
        assert tensor.dtype == inputs.ingredients.tensor(0, name).dtype


def check_method_repeats(method: Method, folder: Path) -> None:
    """Same seed, same soup, bit for bit; files of ingredients stay as they are."""
    inputs = soup_inputs(folder)
    before = [path.read_bytes() for path in inputs.ingredients.paths]
    first, second = method(inputs), method(inputs)
    assert torch.equal(first.coefficients, second.coefficients)
    assert (first.selected, first.blocks, first.history) == (second.selected, second.blocks, second.history)
    assert [path.read_bytes() for path in inputs.ingredients.paths] == before


def check_method_leaves_the_model_as_it_was(method: Method, folder: Path) -> None:
    """Modes and requires_grad flags come back, no gradient is left; only the weights may be others."""
    inputs = soup_inputs(folder)
    model = inputs.model.train()
    model.get_submodule("head").eval().requires_grad_(False)
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    method(inputs)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())


def check_method_takes_one_ingredient(method: Method, folder: Path) -> None:
    """One ingredient comes back as it is, unless theta0 is mixed in."""
    inputs = soup_inputs(folder)
    alone = inputs.ingredients.subset([2])
    soup = method(dataclasses.replace(inputs, ingredients=alone))
    assert soup.selected == (0,)
    if soup.state_dict is not None and not method.needs_theta0:
        assert all(torch.equal(soup.state_dict[name], alone.tensor(0, name)) for name in alone.names)


def check_method_takes_batches(method: Method, folder: Path) -> None:
    """Fit data may be a re-iterable of batches instead of two tensors."""
    inputs = soup_inputs(folder)
    values, labels = cast(tuple[Tensor, Tensor], inputs.fit)
    batches = [(values[:25], labels[:25]), (values[25:], labels[25:])]
    assert method(dataclasses.replace(inputs, fit=batches)).coefficients.shape[0] == 5


def check_method_renews_batchnorm(method: Method, folder: Path) -> None:
    """The statistics of a soup of several ingredients are measured on it; integer buffers keep their type."""
    inputs = soup_inputs(folder, 4, normalized=True)
    soup: Soup = method(inputs)
    if soup.state_dict is None or len(soup.selected) == 1:
        return
    model = copy.deepcopy(inputs.model).eval()
    model.load_state_dict(soup.state_dict)
    assert inputs.recalibrate is not None
    inputs.recalibrate(model)
    torch.testing.assert_close(soup.state_dict["norm.running_mean"], model.state_dict()["norm.running_mean"])
    assert soup.state_dict["norm.num_batches_tracked"].dtype == torch.int64


def check_method_settings(method: Method, folder: Path) -> None:
    """Settings are a frozen dataclass of plain values, which go through YAML and JSON and back."""
    settings = method.settings({})
    if settings is None:
        assert method.defaults is None
        return
    assert dataclasses.is_dataclass(settings)
    values = dataclasses.asdict(settings)  # type: ignore[arg-type]
    assert method.settings(json.loads(json.dumps(values))) == settings
    name = next(iter(values))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, name, values[name])


def check_method_uses_known_accuracies(method: Method, folder: Path) -> None:
    """`SoupInputs.accuracies` are known in most runs, and None where theta0 is an ingredient: both must do."""
    inputs = soup_inputs(folder)
    soup = method(dataclasses.replace(inputs, accuracies=[0.5, 0.7, 0.6, 0.4, 0.3]))
    assert soup.coefficients.shape == (5, len(soup.layers))


def check_method_takes_another_metric(method: Method, folder: Path) -> None:
    """`SoupInputs.metric` decides in place of accuracy, where soups are compared; known scores are by that then."""
    inputs = dataclasses.replace(soup_inputs(folder), metric=METRICS["matthews"])
    for known in (None, [-0.1, 0.7, 0.6, 0.0, 0.3]):
        soup = method(dataclasses.replace(inputs, accuracies=known))
        assert soup.coefficients.shape == (5, len(soup.layers))


def check_method_computes_as_the_run_does(method: Method, folder: Path) -> None:
    """Whatever it learns or scores is computed in `SoupInputs.precision` (see `pipeline.precision.arithmetic`)."""
    inputs = dataclasses.replace(soup_inputs(folder), precision="bfloat16")
    seen: set[torch.dtype] = set()
    inputs.model.get_submodule("head").register_forward_hook(lambda head, given, logits: seen.add(logits.dtype))
    method(inputs)
    assert seen <= {torch.bfloat16}, "a forward pass is in another arithmetic"


METHOD_CHECKS: tuple[Callable[[Method, Path], None], ...] = (
    check_method_gives_a_whole_soup,
    check_method_repeats,
    check_method_leaves_the_model_as_it_was,
    check_method_takes_one_ingredient,
    check_method_takes_batches,
    check_method_uses_known_accuracies,
    check_method_takes_another_metric,
    check_method_renews_batchnorm,
    check_method_computes_as_the_run_does,
    check_method_settings,
)


# --- Backbones ------------------------------------------------------------------------------------------------------

# Runs in a process that cannot import this package: what a served soup does.
_ALONE = """
import importlib, json, sys
sys.modules["pipeline"] = None
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import load_file
description = json.loads(sys.argv[2])
network, reader = (importlib.import_module(description[name]) for name in ("network_module", "reader_module"))
tower = network.build(description["architecture"], description["head_name"]).eval()
tower.load_state_dict(load_file(sys.argv[3]))
inputs = torch.from_numpy(reader.Reader(description)(reader.example(description)))[None]
print(json.dumps(tower(reader.prepare(description)(inputs)).flatten().tolist()))
"""


def check_backbone(config: ModelConfig, data: DataConfig, folder: Path) -> None:
    """A backbone by the settings of a small model of it: what it brings fits together, and its file stands alone.

    ``data`` are settings of examples that the model takes, ``folder`` is an empty one to write to.
    """
    module = backbone_module(config.backbone)
    backbone = load_backbone(config, pretrained=False)
    kind = kind_of(data)
    assert KINDS[backbone.kind] is kind, "a backbone takes examples of its `kind`"
    description = describe_model(config, data, _CLASS_NAMES)
    example = torch.from_numpy(_read_example(kind.reader, description.inputs))[None]
    tower = backbone.tower.eval()
    with torch.no_grad():
        features = tower(kind.reader.prepare(backbone.constants)(example))
    assert features.shape == (1, backbone.feature_dim), "the tower maps (B, ...) to (B, feature_dim)"
    for requirement in module.REQUIREMENTS:
        assert importlib.metadata.version(requirement), f"REQUIREMENTS: '{requirement}' is no installed distribution"
    _check_stands_alone(config, description, tower, features, folder)
    _check_export(config, description, folder / "exported")


def _check_stands_alone(
    config: ModelConfig, description: ModelDescription, tower: nn.Module, features: Tensor, folder: Path
) -> None:
    """`build` makes the same network in a process without this package, from the file and plain values alone."""
    file = backbone_file(config.backbone)
    alone = folder / "alone"
    alone.mkdir(parents=True)
    for shipped in (file, Path(str(KINDS[description.kind].reader.__file__))):
        (alone / shipped.name).write_bytes(shipped.read_bytes())
    weights = folder / "tower.safetensors"
    save_weights({name: value.clone() for name, value in tower.state_dict().items()}, weights, {})
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, str(alone), description.model_dump_json(), str(weights)],
        capture_output=True,
        text=True,
        cwd=alone,
        check=False,
    )
    assert done.returncode == 0, f"{file.name} does not build the network without this package:\n{done.stderr}"
    answer = torch.tensor(json.loads(done.stdout.splitlines()[-1])).view(features.shape)
    torch.testing.assert_close(answer, features, rtol=1e-4, atol=1e-5)


def _check_export(config: ModelConfig, description: ModelDescription, folder: Path) -> None:
    """`export` writes files, and says how to load them."""
    folder.mkdir(parents=True)
    model = build_classifier(config, len(_CLASS_NAMES)).eval()
    code = backbone_module(config.backbone).export(model, description, folder)
    assert any(folder.iterdir()), "export writes the files of the model"
    assert "{folder}" in code, "export returns the code that loads them, with {folder} where the folder stands"
    if (check_folder := getattr(backbone_module(config.backbone), "check_folder", None)) is not None:
        check_folder(folder, description)  # of the same model


# --- Kinds of input -------------------------------------------------------------------------------------------------

# Runs in a process that cannot import this package.
_READ_ALONE = """
import importlib, json, sys
sys.modules["pipeline"] = None
sys.path.insert(0, sys.argv[1])
reader, inputs = importlib.import_module(sys.argv[2]), json.loads(sys.argv[3])
print(json.dumps(reader.Reader(inputs)(reader.example(inputs)).tolist()))
"""


def check_kind(kind: Kind, data: DataConfig, values: Sequence[Any], constants: Mapping[str, Any], folder: Path) -> None:
    """A kind of input by settings and some different raw ``values`` of it: what it brings fits together.

    ``constants`` are those of a backbone that takes it, ``folder`` is an empty one to write to.
    """
    for key in kind.needs:
        assert key in DataConfig.model_fields, f"needs: '{key}' is no setting of `data`"
    for words in (kind.singular, kind.plural, kind.contents, kind.accepted(data)):
        assert words, "messages are made of these words"
    assert (kind.singular, kind.plural) == kind.reader.NAMES
    assert all("{reason}" in said for _, said in kind.probes(data)), "probes say what the model raised"
    form, encode = kind.form(data), kind.encoder(data)
    examples = [encode(value)[0] for value in values]
    for example in (*examples, _read_example(kind.reader, kind.inputs(data))):
        assert (example.shape, example.dtype) == (form.shape, np.dtype(form.dtype)), "examples have the `form`"
    assert len({example.tobytes() for example in examples}) == len(values), "what differs is encoded otherwise"
    assert np.array_equal(pickle.loads(pickle.dumps(encode))(values[0])[0], examples[0])
    assert json.loads(json.dumps(kind.key(data))) == kind.key(data), "key: plain values"
    assert json.loads(json.dumps(kind.inputs(data))) == kind.inputs(data), "inputs: plain values"
    together, prepare = torch.from_numpy(np.stack(examples)), kind.reader.prepare(constants)
    _check_batch(kind, together, prepare)
    if kind.show is not None:
        shown = kind.show(data, np.stack(examples))
        assert len(shown) == len(values), "show: each example"
        for media_type, content in shown:
            assert re.fullmatch(r"[a-z]+/[a-z0-9.+-]+", media_type), "show: the media type of what is shown"
            assert media_type.startswith("text/") or base64.b64decode(content, validate=True), "show: base64"
    torch.testing.assert_close(prepare(kind.exported(together)), prepare(together), msg="exported: the same examples")
    _check_read_alone(kind, data, folder)


def _read_example(reader: ReaderModule, inputs: Mapping[str, Any]) -> npt.NDArray[Any]:
    example = reader.example(inputs)
    assert example.keys() == reader.columns(inputs).keys(), "example has a value for each of the columns"
    return reader.Reader(inputs)(example)


def _check_batch(kind: Kind, examples: Tensor, prepare: nn.Module) -> None:
    """What a step of training gets can be prepared as the examples are, and repeats."""
    assert not prepare.state_dict(), "prepare has no weights that could be souped"
    targets = torch.eye(_CLASSES)[torch.arange(len(examples)) % _CLASSES]
    hyper = _hyperparameters(Hyperparameters)
    drawn = [kind.draw(examples.shape, hyper, torch.Generator().manual_seed(1)) for _ in range(2)]
    (batch, mixed), again = (kind.batch(examples, targets, hyper, draws) for draws in drawn)
    assert torch.equal(batch, again[0]), "draw takes what is random from the generator alone, batch takes it from draw"
    assert mixed.shape == targets.shape
    torch.testing.assert_close(mixed.sum(1), torch.ones(len(examples)))
    ready, trained = prepare(examples), prepare(batch)
    assert (ready.shape, ready.dtype) == (trained.shape, trained.dtype)


def _check_read_alone(kind: Kind, data: DataConfig, folder: Path) -> None:
    """The reader needs its own file alone."""
    file, inputs = Path(str(kind.reader.__file__)), kind.inputs(data)
    (folder / file.name).write_bytes(file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALONE, str(folder), file.stem, json.dumps(inputs)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, f"{file.name} does not read without this package:\n{done.stderr}"
    assert json.loads(done.stdout.splitlines()[-1]) == _read_example(kind.reader, inputs).tolist()


# --- Data sources ---------------------------------------------------------------------------------------------------


def check_source(source: Source, data: DataConfig) -> None:
    """A source by settings that lead to a small set of it: what it lists can be read, by any process."""
    assert SOURCES[data.source] is source
    for key in source.needs:
        assert key in DataConfig.model_fields, f"needs: '{key}' is no setting of `data`"
    identity = source.identity(data)
    assert isinstance(identity, str)
    assert identity
    assert source.identity(data) == identity, "identity is the same as long as the images are"
    raw = source.open(data)
    assert raw.train, "the training set has images"
    names = raw.class_names
    assert names is None or len(set(names)) == len(names), "class names differ"
    for chunks in filter(None, (raw.train, raw.test)):
        _check_chunks(chunks, data, None if names is None else len(names))


def _check_chunks(chunks: list[Chunk], data: DataConfig, num_classes: int | None) -> None:
    start = 0
    for chunk in chunks:
        assert chunk.start == start, "chunks follow each other: `start` is the index of their first image"
        start += chunk.count
    for chunk in (chunks[0], chunks[-1]):
        images = list(pickle.loads(pickle.dumps(chunk)).read())
        assert len(images) == chunk.count, "read yields `count` images"
        if chunk.labels is not None:
            assert chunk.labels.tolist() == [image.label for image in images], "labels are those of the images"
        first = images[0]
        assert first.value is not None
        kind = kind_of(data)
        assert kind.encoder(data)(first.value)[0].shape == kind.form(data).shape, "values are such as the kind encodes"
        assert first.label is not None
        assert first.label >= 0
        assert num_classes is None or first.label < num_classes
        assert first.where, "where names the image in error messages"


# --- Metrics --------------------------------------------------------------------------------------------------------


def check_metric(metric: Metric) -> None:
    """A metric: a number of labels and predictions alone, highest where all are right, whatever classes are there."""
    assert metric.name, "name: in the settings, records and MLflow"
    assert metric.label, "label: what people read"
    classes = metric.num_classes or _CLASSES
    assert metric.unfit(classes) is None
    assert METRICS[metric.instead].unfit(classes + 1) is None, "instead: a metric that takes any number of classes"
    generator = np.random.default_rng(0)
    labels, guesses = (generator.integers(classes, size=60) for _ in range(2))
    before = labels.copy(), guesses.copy()
    best, guessed = metric.score(labels, labels, classes), metric.score(labels, guesses, classes)
    assert isinstance(guessed, float)
    assert -1 <= guessed < best <= 1, "more is better"
    assert metric.score(labels, guesses, classes) == guessed, "the same images have the same score"
    assert (labels == before[0]).all()
    assert (guesses == before[1]).all()
    order = generator.permutation(60)
    assert np.isclose(metric.score(labels[order], guesses[order], classes), guessed), "the order of images is no matter"
    for one, other in ((0, 0), (0, classes - 1), (classes - 1, 0), (classes - 1, classes - 1)):
        score = metric.score(np.array([one]), np.array([other]), classes)
        assert -1 <= score <= 1, "a resample of a small split may hold one class alone"


# --- Training functions ---------------------------------------------------------------------------------------------


def small_splits() -> Splits:
    """Images of 8 x 8 pixels, four classes of noise of different brightness: 64 train, 32 fit, 16 select, 32 test."""
    generator = np.random.default_rng(0)
    sets: list[ExampleSet] = []
    for size in (64, 32, 16, 32):
        labels = generator.integers(_CLASSES, size=size)
        brightness = (30 + 60 * labels)[:, None, None, None]
        images = np.clip(generator.normal(brightness, 20, (size, 3, 8, 8)), 0, 255).astype(np.uint8)
        sets.append(ExampleSet(images, labels.astype(np.int64)))
    train, fit, select, test = sets
    return Splits(None, train, fit, select, test, class_names=_CLASS_NAMES, records=())


class _Pixels(nn.Module):
    """uint8 images (B, 3, 8, 8), or float ones in [0, 1], to logits (B, 4): a convolution, its mean, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, _CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        pixels = images if images.is_floating_point() else images / 255
        logits: Tensor = self.head(self.tower(pixels).relu().mean(dim=(2, 3)))
        return logits


def check_trainer(trainer: Trainer, folder: Path, **own: Any) -> None:
    """A training function: one result per seed, progress per epoch, states to go on from, hyperparameters in tables.

    ``own`` are values of hyperparameters that have no default; the settings of the search are the defaults.
    """
    settings = SearchConfig.model_construct()
    assert issubclass(trainer.hyperparameters, Hyperparameters)
    splits = small_splits()
    hyper = _hyperparameters(trainer.hyperparameters, **own)
    whole, records, states = _trained(trainer, splits, hyper, settings)
    assert [record.epoch for record in records] == [1, 2, 3], "on_epoch is called after every epoch"
    assert whole[0].images_seen > 0
    assert 0 <= whole[0].val_accuracy <= 1
    assert 0 <= whole[0].test_accuracy <= 1
    assert whole[0].val_score is None, "accuracy decides: there is no other score"
    other = dataclasses.replace(splits, metric="macro_f1")
    measured = _trained(trainer, other, hyper, settings)[0][0]
    assert measured.val_score is not None, "`split_figures` measures scores by `Splits.metric` too"
    assert measured.test_score is not None
    assert measured.val_accuracy == whole[0].val_accuracy
    again, _, _ = _trained(trainer, splits, hyper, settings)
    _assert_same(again[1], whole[1], "the same seed gives the same weights")
    resumed, later, _ = _trained(trainer, splits, hyper, settings, resume=states[0])
    assert [record.epoch for record in later] == [2, 3], "a resumed trial goes on with the next epoch"
    _assert_same(resumed[1], whole[1], "a resumed trial gives the same weights")
    with pytest.raises(TrialRejected):
        _trained(trainer, splits, hyper.model_copy(update={"lr": 1e30}), settings)
    _check_table(hyper, folder / "ingredients.parquet")


def _hyperparameters(kind: type[Hyperparameters], **own: Any) -> Any:
    return kind(
        **{
            **{"lr": 0.01, "weight_decay": 0.01, "epochs": 3, "batch_size": 16, "label_smoothing": 0.0, "mixup": 0.0},
            **{"augmentation": "minimal", "randaugment_m": 0, "randaugment_n": 0, "seed": 7},
            **own,
        }
    )


def _trained(
    trainer: Trainer, splits: Splits, hyper: Hyperparameters, settings: SearchConfig, resume: Any = None
) -> tuple[tuple[Finetuned, Mapping[str, Tensor]], list[EpochRecord], list[Any]]:
    """What the function returned and the weights, what it told of its epochs, and a copy of each state from a file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _Pixels()
    records: list[EpochRecord] = []
    states: list[Any] = []

    def on_epoch(record: EpochRecord, state: dict[str, Any]) -> None:
        records.append(record)
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        states.append(torch.load(file, weights_only=True))  # plain tensors and numbers alone can be read so

    done = trainer.train(model, splits, hyper, settings, device="cpu", resume=resume, on_epoch=on_epoch)
    return (done, unique_state(model)), records, states


def _assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor], owed: str) -> None:
    for name, value in one.items():
        assert torch.equal(value, other[name]), f"{owed}; {name} differs"


def _check_table(hyper: Hyperparameters, path: Path) -> None:
    """The hyperparameters are columns that are read back as they were."""
    row = IngredientRecord(
        trial_index=0, status="failed", gpu_hours=0, attempts=1, images_seen=0, device="cpu", theta0_sha256=None,
        **hyper.model_dump(),
    )  # fmt: skip
    write_table(path, [row], IngredientRecord)
    (read,) = read_table(path, IngredientRecord)
    assert read.hyperparameters == hyper.model_dump()


__all__ = [
    "METHOD_CHECKS",
    "check_backbone",
    "check_kind",
    "check_metric",
    "check_source",
    "check_trainer",
    "small_splits",
    "soup_inputs",
]
