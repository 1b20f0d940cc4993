"""The registry of a cluster: MLflow with authentication on PostgreSQL and an S3-compatible store, killed in mid-run."""

import shutil
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path

import pytest
from buckets import object_store
from program import CONFIG, SMALL, Background, Finished, environment, needs_mlflow, the_sweep
from servers import database_text, needs_postgres, postgresql, tracking_server

from pipeline.registry import fetch_ingredients, list_ingredients, read_trials

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500), needs_mlflow, needs_postgres]
TRIALS = 6
SETTINGS = (
    *("data.train_size=300", f"search.num_trials={TRIALS}", "soup.methods=[greedy, mehl-plus]", "study={}"),
    "search.distributions={lr: 1e-4, epochs: 4, batch_size: 25, augmentation: minimal}",
)
SECRETS = {
    "database": "planted-database-password-1",
    "store": "planted-store-secret-2",
    "mlflow": "planted-mlflow-password-3",
    "ray": "planted-ray-token-4-0123456789abcdef0123456789abcdef",
    "bucket": "planted-bucket-secret-5",
}
USERS = """\
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///{folder}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@pytest.fixture(scope="module")
def store():
    with object_store(secret=SECRETS["store"]) as bucket:
        yield bucket


@pytest.fixture(scope="module")
def database():
    with postgresql(SECRETS["database"]) as uri:
        yield uri


@pytest.fixture(scope="module")
def server(store, database, tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    (folder / "auth.ini").write_text(USERS.format(folder=folder))
    secrets = {"MLFLOW_AUTH_ADMIN_PASSWORD": SECRETS["mlflow"], "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-cookies"}
    settings = {"MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_S3_ENDPOINT_URL": store.endpoint}
    options = ("--app-name", "basic-auth")
    with tracking_server(folder, database, f"s3://{store.name}", *options, **secrets, **settings, **store.keys) as one:
        yield one


@pytest.fixture(scope="module")
def ray_files():
    """Where Ray keeps its logs; short, since it holds Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="r-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def shell(home: Path, ray_files: Path, server, password: str) -> dict[str, str]:
    """The environment of a user of the server."""
    credentials = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": password}
    ray = {"RAY_TMPDIR": str(ray_files), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": SECRETS["ray"]}
    # As for `search.storage` in a bucket.
    bucket = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), SECRETS["bucket"])
    return environment(home, MLFLOW_TRACKING_URI=server.uri, **credentials, **ray, **bucket)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def finished(server, home, ray_files):
    """The output of a run during which the server was killed twice, and started again."""
    command = [sys.executable, "pipeline/run.py", *CONFIG, *SMALL, *SETTINGS]
    with Background(command, shell(home, ray_files, server, SECRETS["mlflow"]), home / "run.log") as running:
        for moment in (f" 2/{TRIALS} ", "soup: greedy"):
            running.wait_for_output(moment)
            server.kill()
            time.sleep(8)
            server.start()
        assert running.process.wait(timeout=900) == 0, running.output()
        return running.output()


@pytest.fixture
def sweep(finished, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRETS["mlflow"])
    return the_sweep(server.uri)


def test_nothing_is_lost_and_nothing_doubled(sweep, home, tmp_path):
    rows = Finished(home).ingredients()
    assert [(row.trial_index, row.status, row.attempts) for row in rows] == [
        (index, "finished", 1) for index in range(TRIALS)
    ]
    assert read_trials(sweep) == rows
    versions = list_ingredients(sweep)
    assert [version.trial_index for version in versions] == [None, *range(TRIALS)]
    assert len(fetch_ingredients(versions, tmp_path)) == TRIALS + 1
    client = sweep.client()
    children = client.search_runs([sweep.experiment_id], f"tags.sweep_id = '{sweep.sweep_id}'")
    keys = [(child.data.tags["role"], child.data.tags.get("key")) for child in children]
    assert len(keys) == len(set(keys))
    assert {child.info.status for child in children} == {"FINISHED"}


def test_soups_are_registered_once(sweep, home):
    assert [(soup.method, soup.num_ingredients) for soup in Finished(home).soups()] == [
        ("greedy", TRIALS),
        ("mehl-plus", TRIALS),
    ]
    client = sweep.client()
    versions = client.search_model_versions(f"name = '{sweep.soup_model}'")
    assert sorted(version.tags["method"] for version in versions) == ["greedy", "mehl-plus"]
    aliases = client.get_registered_model(sweep.soup_model).aliases
    assert set(aliases) == {"greedy", "mehl-plus", "champion"}


def test_ingredients_are_in_the_object_store_alone(sweep, store, home):
    assert len([key for key in store.objects() if key.endswith("model.safetensors")]) >= TRIALS + 2
    here = {str(path.relative_to(Finished(home).output)) for path in home.rglob("*.safetensors")}
    assert here == {"theta0.safetensors", "soups/greedy.safetensors", "soups/mehl-plus.safetensors"}


def test_no_secret_is_left_anywhere(sweep, server, store, database, home, ray_files):
    folders = (home, ray_files, server.log.parent)
    written = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert any(path.name == "report.html" for path in written)
    assert any("session_" in str(path) for path in written), "Ray kept its logs elsewhere"
    written |= store.objects() | {"database": database_text(database).encode()}
    secrets = SECRETS | {"header": b64encode(f"admin:{SECRETS['mlflow']}".encode()).decode()}
    assert [f"{name} in {place}" for place, content in written.items() for name, secret in secrets.items()
            if secret.encode() in content] == []  # fmt: skip


def test_a_wrong_password_is_one_line(server, ray_files, tmp_path):
    command = [sys.executable, "pipeline/run.py", *CONFIG, *SMALL]
    with Background(command, shell(tmp_path, ray_files, server, "planted-wrong-5"), tmp_path / "log") as running:
        assert running.process.wait(timeout=120) == 2, running.output()
    (line,) = [line for line in running.output().splitlines() if "registry" in line]
    assert "cannot be reached" in line
    assert "Traceback" not in running.output()
    assert "planted" not in running.output()
