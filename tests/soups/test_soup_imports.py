"""The library stays usable with torch and safetensors alone."""

import subprocess
import sys


def test_pulls_in_no_cluster_registry_or_vision_package():
    code = "import sys, pipeline.soups; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"ray", "mlflow", "pydantic", "torchvision", "open_clip", "pandas", "pyarrow"}
