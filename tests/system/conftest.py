import shutil

import pytest
from program import CONFIG, SCRIPT, SMALL, Finished, run_program


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A small run of the whole line, from a fresh folder: nobody may change it."""
    home = tmp_path_factory.mktemp("finished")
    done = run_program(SCRIPT, *CONFIG, *SMALL, home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(home, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def image_store(tmp_path_factory):
    """The setting that lets runs share their prepared images, to save the time."""
    return f"data.store={tmp_path_factory.mktemp('images')}"


@pytest.fixture
def warm_home(migrated_store, tmp_path):
    """A folder for outputs whose database has its tables already, to save the time."""
    runs = tmp_path / "home" / "runs"
    runs.mkdir(parents=True)
    shutil.copy(migrated_store, runs / "mlflow.db")
    return tmp_path / "home"
