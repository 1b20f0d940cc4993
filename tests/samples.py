"""Small settings, images and records for tests."""

import contextlib
import os
import socket
import sys
from pathlib import Path

from pipeline.commands.common import known_names
from pipeline.config import Config, DataConfig, ModelConfig, SearchConfig, config_type
from pipeline.records import RECORDS_VERSION, Hyperparameters, IngredientRecord, RunRecord

VISION = {"image_size": 8, "patch_size": 2, "width": 16, "layers": 1, "head_width": 8, "mlp_ratio": 2.0}
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
TOWER = {"embed_dim": 16, "vision_cfg": VISION}
CLIP = {**TOWER, "text_cfg": TEXT}
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def special_files(folder: Path, suffix: str = "") -> list[Path]:
    """A pipe, a socket and a link to a device, which nobody should begin to read; and a link to itself."""
    pipe, place, device, loop = (folder / f"{name}{suffix}" for name in ("pipe", "socket", "device", "loop"))
    os.mkfifo(pipe)
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as unbound:  # whose path must be short
        unbound.bind(place.name)
    device.symlink_to("/dev/zero")
    loop.symlink_to(loop)
    return [pipe, place, device, loop]


def model_config(**settings) -> ModelConfig:
    defaults = {"backbone": "open_clip"} if "backbone" not in settings else {}
    if "name" not in settings and "architecture" not in settings:
        defaults["architecture"] = TOWER
    return ModelConfig.model_validate({**defaults, **settings}, context=known_names())


def search_config(**settings) -> SearchConfig:
    return SearchConfig.model_validate(settings, context=known_names())


def config(**sections) -> Config:
    """Settings of a digits run; sections as keywords replace or extend the defaults."""
    values = {
        "name": "tiny",
        "data": {"source": "digits", "image_size": 8, "test_size": 100},
        "model": {"backbone": "open_clip", "architecture": TOWER},
    }
    known = known_names()
    return config_type(known.studies).model_validate(values | sections, context=known)


def hyperparameters(**values) -> Hyperparameters:
    defaults = {
        "lr": 3e-3,
        "weight_decay": 0.01,
        "epochs": 2,
        "batch_size": 32,
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "augmentation": "minimal",
        "randaugment_m": 0,
        "randaugment_n": 0,
        "seed": 7,
        "cutmix": 0.0,
        "ema_decay": 0.0,
        "schedule": "cosine",
    }
    return Hyperparameters(**(defaults | values))


def ingredient(trial_index: int, **values) -> IngredientRecord:
    defaults = {
        "trial_index": trial_index,
        "status": "finished",
        "val_accuracy": 0.9,
        "select_accuracy": 0.8,
        "test_accuracy": 0.7,
        "gpu_hours": 0.5,
        "attempts": 1,
        "images_seen": 100,
        "device": "cpu",
        "sha256": "0" * 64,
        "theta0_sha256": "1" * 64,
        "path": "file:///nowhere",
    }
    return IngredientRecord(**(defaults | values), **hyperparameters().model_dump())


def run_record(**values) -> RunRecord:
    defaults = {
        "records_version": RECORDS_VERSION,
        "name": "tiny",
        "sweep_id": "20260101-000000-abcd",
        "seed": 0,
        "started": "2026-01-01T00:00:00+00:00",
        "git_commit": None,
        "versions": {},
        "machine": "a machine",
        "class_names": list(DIGIT_NAMES),
        "splits": [],
        "theta0_sha256": "1" * 64,
        "theta0_gpu_hours": 0.1,
        "theta0_test_accuracy": 0.5,
    }
    return RunRecord(**(defaults | values))


def add_outside_backbone(monkeypatch, folder: Path, package: str = "mine", change=("", "")) -> None:
    """Write ``package/backbone.py`` into ``folder`` and add it to the table, as a plug-in does."""
    from pipeline.models import BACKBONES

    source = Path(__file__).with_name("outside_backbone.py").read_text()
    assert change[0] in source
    (folder / package).mkdir()
    (folder / package / "backbone.py").write_text(source.replace(*change))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(BACKBONES, package, f"{package}.backbone")
    for name in (package, f"{package}.backbone"):  # of the test before
        sys.modules.pop(name, None)


def digits_data(image_size: int) -> DataConfig:
    return DataConfig.model_construct(source="digits", image_size=image_size)


def served_soup(weights: Path, config: ModelConfig, image_size: int, class_names=DIGIT_NAMES):
    """What the registry needs to serve ``weights``, as the soup task puts it together."""
    from pipeline.data import KINDS
    from pipeline.models import backbone_file, backbone_module, describe_model
    from pipeline.registry import SoupModel

    name, description = config.backbone, describe_model(config, digits_data(image_size), class_names)
    reader = KINDS["images"].reader
    requirements = (*backbone_module(name).REQUIREMENTS, *reader.REQUIREMENTS)
    columns, example = reader.columns(description.inputs), reader.example(description.inputs)
    return SoupModel(weights, description, backbone_file(name), Path(reader.__file__), requirements, columns, example)


def digit_images(start: int, stop: int):
    """Rows of scikit-learn's digits as an image set, uint8 (N, 3, 8, 8)."""
    import numpy as np
    from sklearn.datasets import load_digits

    from pipeline.data import ExampleSet

    digits = load_digits()
    grey = np.round(digits.images[start:stop] * (255 / 16)).astype(np.uint8)
    images = np.ascontiguousarray(np.repeat(grey[:, None], 3, axis=1))
    return ExampleSet(images, digits.target[start:stop].astype(np.int64))


def digit_splits(train: int = 192, fit: int = 100, select: int = 40, test: int = 100):
    from pipeline.data import Splits

    sets, start = [], 0
    for size in (train, fit, select, test):
        sets.append(digit_images(start, start + size))
        start += size
    return Splits(None, *sets, class_names=DIGIT_NAMES, records=())
