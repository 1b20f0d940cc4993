import io
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from pipeline.config import dump_config, load_config
from pipeline.records import CoefficientRecord, CostRecord, IngredientRecord, SoupRecord
from pipeline.records.tables import read_table

FOLDER = Path(__file__).resolve().parents[1] / "configs"
SHIPPED = sorted(FOLDER.glob("*.yaml"))


def test_the_papers_settings_are_shipped():
    of_tables = {"cifar100-vit-l-14", "cifar100-resnet101", "imagenet-vit-b-32", "imagenet-vit-l-14"}
    assert {"digits", "cifar10-vit-b-32", *of_tables} <= {path.stem for path in SHIPPED}
    for name in of_tables:  # whose tables have these ten rows
        rows = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["soup"]["methods"]
        learning = ["learned", "hl", "mehl", "learned-plus", "hl-plus", "mehl-plus"]
        assert rows == ["best-individual", "uniform", "greedy", *learning, "ensemble"]


def test_the_demo_learns_in_blocks():
    settings = yaml.safe_load((FOLDER / "digits.yaml").read_text())
    for method in ("mehl", "mehl-plus"):
        assert settings["soup"]["settings"][method]["block_size"] < settings["search"]["num_trials"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_loads_and_opens_with_its_command(path, known, write_config):
    head = path.read_text().partition("\nname: ")[0]
    (command,) = re.findall(r"^#   python (pipeline/run.py --config .*(?:\n#       .*)*)", head, re.MULTILINE)
    program, option, file, *overrides = command.replace("#", "").split()
    assert [program, option, file] == ["pipeline/run.py", "--config", f"configs/{path.name}"]
    config = load_config(path, overrides, known)
    assert config.name == path.stem
    again = load_config(write_config(dump_config(config)), [], known)
    assert again.model_dump() == config.model_dump()
    assert re.search("^# Needs", head, re.MULTILINE)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_names_no_path_outside_of_the_repository(path):
    def values(node):
        return [leaf for value in node.values() for leaf in values(value)] if isinstance(node, dict) else [node]

    paths = [value for value in values(yaml.safe_load(path.read_text())) if isinstance(value, str) and "/" in value]
    assert [one for one in paths if one.startswith(("/", "~", ".."))] == []


def coloured_images(path: Path, count: int) -> Path:
    """PNG images of two classes, reddish and bluish."""
    generator = np.random.default_rng(count)
    images, labels = [], []
    for row in range(count):
        pixels = generator.integers(0, 120, (20, 20, 3), dtype=np.uint8)
        pixels[..., 0 if row % 2 else 2] += 120
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        images.append(buffer.getvalue())
        labels.append(row % 2)
    pq.write_table(pa.table({"image": images, "label": labels}), path)
    return path


@pytest.mark.system
def test_the_cifar10_config_runs_on_a_small_parquet_set(session_ray, migrated_store, tmp_path, known):
    # With theta0 as an ingredient and without a select split, which is the papers' protocol.
    from pipeline.commands import run
    from pipeline.stages.state import all_stages

    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    overrides = [
        f"data.root={tmp_path}",
        f"output={tmp_path / 'run'}",
        f"registry.tracking_uri=sqlite:///{tmp_path / 'mlflow.db'}",
        "data.source=parquet",
        f"data.train={coloured_images(tmp_path / 'train.parquet', 80)}",
        f"data.test={coloured_images(tmp_path / 'test.parquet', 20)}",
        "data.class_names=[red, blue]",
        "data.image_size=16",
        "data.validation_size=20",
        "data.select_fraction=0",
        "model.name=null",
        "model.pretrained=null",
        "model.architecture.embed_dim=16",
        "model.architecture.vision_cfg={image_size: 16, patch_size: 8, width: 16, layers: 1, head_width: 8}",
        "search.num_trials=2",
        "search.distributions={epochs: 1, batch_size: 20, lr: 1e-3}",
        "soup.include_initialization=true",
    ]
    config = load_config(FOLDER / "cifar10-vit-b-32.yaml", overrides, known)
    run.run_stages(config, all_stages(), fresh=False)
    output = config.output
    trials = read_table(output / "ingredients.parquet", IngredientRecord)
    assert [row.status for row in trials] == ["finished", "finished"]
    assert all(row.select_accuracy is None for row in trials)
    soups = read_table(output / "soups.parquet", SoupRecord)
    assert [row.method for row in soups] == config.soup.methods
    assert all(row.select_accuracy is None for row in soups)
    assert max(row.test_accuracy for row in soups) > 0.8
    uniform = read_table(output / "coefficients" / "uniform.parquet", CoefficientRecord)
    assert {row.trial_index for row in uniform} == {0, 1, -1}
    assert sum(row.coefficient for row in uniform) == pytest.approx(1)
    assert {row.num_ingredients for row in soups} == {3}
    points = read_table(output / "cost_accuracy.parquet", CostRecord)
    assert [(row.method, row.num_ingredients) for row in points] == [("greedy", 2), ("mehl-plus", 2)]
    assert (output / "report.html").exists()
