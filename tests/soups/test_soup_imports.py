"""The library stays usable with torch and safetensors alone."""

import subprocess
import sys


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
