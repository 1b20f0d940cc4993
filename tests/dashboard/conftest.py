import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "report"))  # for its records


@dataclass(frozen=True)
class Registry:
    """A store with a sweep that has ended, `cifar`, and a later one that runs, `digits`."""

    home: Path
    uri: str


@pytest.fixture(scope="session")
def made(migrated_store, tmp_path_factory):
    """Made once, for those who only read it."""
    from made_registry import finished_sweep, running_sweep

    home = tmp_path_factory.mktemp("registry")
    shutil.copy(migrated_store, home / "mlflow.db")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    finished_sweep(uri, home / "cifar", "cifar", "sweep-0")
    running_sweep(uri, home / "digits", "digits", "sweep-1")
    return Registry(home, uri)


@pytest.fixture
def registry(made, tmp_path):
    """One to change; its files are those of `made`."""
    shutil.copy(made.home / "mlflow.db", tmp_path / "mlflow.db")
    return Registry(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
