"""The library stays usable with torch, NumPy and safetensors alone, and tells what it takes."""

import dataclasses
import inspect
import subprocess
import sys

import pytest

from pipeline import soups

# Settings have a text beneath each field, a set of ingredients is made by its `open`, and a Score by others.
EXPLAINED = {
    **{name: getattr(soups, name) for name in soups.__all__ if not name.endswith("Settings")},
    "IngredientSet.open": soups.IngredientSet.open,
    "Score.__call__": soups.Score.__call__,
}
EXPLAINED = {name: one for name, one in EXPLAINED.items() if inspect.isroutine(one) or dataclasses.is_dataclass(one)}


def test_pulls_in_no_cluster_registry_or_vision_package():
    code = "import sys, pipeline.soups; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"ray", "mlflow", "pydantic", "torchvision", "open_clip", "pandas", "pyarrow"}


def test_works_on_a_system_without_the_module_resource():
    """Windows has neither that module nor /proc: soups are built, their memory is not measured."""
    code = """
import sys
from pathlib import Path

sys.modules["resource"] = None  # any import of it fails
import pipeline.soups
from pipeline.soups import measure

measure._STATUS = Path("no/such/file")
with measure.measured("cpu") as cost:
    pass
print(cost.peak_memory_bytes, cost.seconds > 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "True"]


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_argument_and_field_is_explained(name):
    for argument in inspect.signature(EXPLAINED[name]).parameters.keys() - {"self"}:
        assert f"\n    {argument}: " in inspect.getdoc(EXPLAINED[name]), f"{name} does not say what {argument} is"
