"""Shared fixtures. Heavy libraries are imported inside them, so that a test of one part starts quickly."""

import os
import shutil
from pathlib import Path

import pytest

# Before anything imports torch: on small models threads cost more than they bring, and their number changes results.
# No test may reach for a network, and what the caller's shell says about stores and folders is not for tests.
os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"})
if not Path("/dev/nvidiactl").exists():  # our kernels run in Triton's interpreter; known before anything imports Triton
    os.environ["TRITON_INTERPRET"] = "1"
for _name in ("MLFLOW_TRACKING_URI", "PIPELINE_HOME", "RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
    os.environ.pop(_name, None)


@pytest.fixture(autouse=True)
def _no_tracking_server(monkeypatch):
    # MLflow keeps the store that it was last connected to in the environment, where settings look for one.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def known():
    """What tells `load_config` the valid names, as the command line hands it in."""
    from pipeline.commands.common import known_names

    return known_names


@pytest.fixture
def write_config(tmp_path):
    """Writes settings (text) to a file and returns its path."""

    def write(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def session_ray():
    """A real Ray of two CPUs on this machine."""
    import ray

    # Workers import what tests hand to them by name.
    tests = Path(__file__).resolve().parent
    folders = [str(path) for path in (tests.parent, tests, tests / "search")]
    os.environ["PYTHONPATH"] = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory):
    """An MLflow database without runs; making one takes seconds, copying it does not."""
    from pipeline.registry import connect

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def store_uri(migrated_store, tmp_path):
    """The tracking URI of an MLflow database of one's own."""
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
