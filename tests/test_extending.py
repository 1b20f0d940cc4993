"""The examples of pipeline/README.md do what they say, and pass the contract tests."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from samples import digits_data, ingredient, model_config, run_record

README = Path(__file__).resolve().parents[1] / "pipeline" / "README.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", README.read_text(), re.DOTALL))
TABLES = {
    "mine_method": ("pipeline.soups", "METHODS"),
    "mine_source": ("pipeline.data.sources", "SOURCES"),
    "mine_backbones": ("pipeline.models", "BACKBONES"),
    "mine_metric": ("pipeline.metrics", "METRICS"),
    "mine_trainer": ("pipeline.finetune", "TRAINERS"),
    "mine_study": ("pipeline.studies", "STUDIES"),
    "mine_section": ("pipeline.report", "SECTIONS"),
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """The examples as modules beside each other, imported as plug-ins are; the tables are put back afterwards."""
    from pipeline.config import import_plugins

    folder = tmp_path_factory.mktemp("mine")
    for name, code in EXAMPLES.items():
        (folder / f"{name}.py").write_text(code)
    tables = [getattr(importlib.import_module(module), name) for module, name in TABLES.values()]
    before = [dict(table) for table in tables]
    sys.path.append(str(folder))
    import_plugins(list(TABLES))
    yield folder
    sys.path.remove(str(folder))
    for name in EXAMPLES:
        sys.modules.pop(name, None)
    for table, lines in zip(tables, before, strict=True):
        table.clear()
        table.update(lines)


def test_every_example_is_short():
    assert EXAMPLES.keys() == {*TABLES, "mine_backbone"}
    for name, code in EXAMPLES.items():
        lines = [line for line in code.splitlines() if line.strip()]
        assert len(lines) <= 20, name


def test_the_method(examples, tmp_path):
    from pipeline.soups import METHODS
    from pipeline.testing import METHOD_CHECKS

    for check in METHOD_CHECKS:
        check(METHODS["later-half"], tmp_path / check.__name__)


def test_the_source(examples):
    from data.data_samples import data_config

    from pipeline.data.sources import SOURCES
    from pipeline.testing import check_source

    check_source(SOURCES["checks"], data_config(source="checks", image_size=8))


def test_the_backbone(examples, tmp_path):
    from pipeline.testing import check_backbone

    check_backbone(model_config(backbone="mine", architecture={"width": 6}), digits_data(8), tmp_path)


def test_the_metric(examples):
    import numpy as np

    from pipeline.metrics import METRICS
    from pipeline.testing import check_metric

    metric = METRICS["worst_class"]
    check_metric(metric)
    assert metric.score(np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 0, 0, 0]), 2) == 0.25


def test_the_training_function(examples, tmp_path):
    from pipeline.finetune import TRAINERS
    from pipeline.testing import check_trainer

    check_trainer(TRAINERS["shrunken"], tmp_path)


def test_the_study_and_its_section(examples):
    from pipeline.records import RunResults, SoupRecord
    from pipeline.report import page
    from pipeline.soup_requests import RequestedIngredient, SoupRequest
    from pipeline.studies import STUDIES, BuiltSoup, StudyInputs

    def request(method, indices, hours):
        return SoupRequest(method, tuple(RequestedIngredient(index, None) for index in indices), hours, {}, seed=0)

    trials = [ingredient(0), ingredient(1), ingredient(2)]
    inputs = StudyInputs(None, run_record(), trials, [], request, read_coefficients=None, read_predictions=None)
    asked = STUDIES["pairs"].requests(inputs)
    assert [one.trial_indices for one in asked.values()] == [(0, 1), (1, 2)]
    soup = SoupRecord(
        method="uniform", num_ingredients=2, num_selected=2, val_accuracy=0.5, select_accuracy=None, test_accuracy=0.4,
        gpu_hours=3, construction_seconds=1.5, epochs=2, peak_memory_bytes=7, peak_memory_kind="cuda",
    )  # fmt: skip
    rows = STUDIES["pairs"].rows(inputs, {name: BuiltSoup(name, soup, "") for name in asked})
    html = page(RunResults(run=run_record(), ingredients=trials, studies=dict(rows)))
    assert "<h2>Pairs</h2>" in html
    assert "1, 2" in html
