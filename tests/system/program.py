"""Running the real program, and looking at what a run left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from pipeline.records import IngredientRecord, SoupRecord
from pipeline.records.tables import read_table
from pipeline.registry import Sweep, connect

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = (sys.executable, "pipeline/run.py")
MODULE = (sys.executable, "-m", "pipeline", "run")
CONFIG = ("--config", "configs/digits.yaml")
# The digits demo made so small that starting Ray and MLflow takes most of the time.
SMALL = (
    "data.pretrain_size=100",
    "data.train_size=100",
    "data.validation_size=100",
    "data.test_size=100",
    "model.contrastive.epochs=1",
    "search.num_trials=3",
    "search.distributions={lr: {loguniform: [1e-5, 1e-4]}, epochs: 1, batch_size: 50, augmentation: minimal}",
    "study.cost_accuracy.step=2",
)
MLFLOW = Path(sys.executable).with_name("mlflow")
needs_mlflow = pytest.mark.skipif(not MLFLOW.exists(), reason="the mlflow command is not installed beside this Python")
_ANOTHER_MACHINE = ("MLFLOW_", "RAY_", "PIPELINE_", "PYTHON")


def environment(home: Path | None = None, **more: str) -> dict[str, str]:
    """What a newcomer's shell has: nothing set for Ray, MLflow or Python, outputs under ``home``."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_ANOTHER_MACHINE)}
    return {**kept, **({} if home is None else {"PIPELINE_HOME": str(home)}), **more}


def run_program(
    command: tuple[str, ...], *arguments: str, home: Path, timeout: float = 900
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment(home), capture_output=True, text=True, timeout=timeout
    )


def wait_for(condition: Callable[[], object], what: str, seconds: float = 600) -> object:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return value


def wait_for_server(url: str, running: "Background", seconds: float = 120) -> None:
    """Until ``url`` answers with 200; fails with the server's output when it ends before."""

    def answers() -> bool:
        assert running.process.poll() is None, running.output()
        try:
            return urlopen(url, timeout=5).status == 200
        except OSError:
            return False

    wait_for(answers, url, seconds)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _hear_interrupts() -> None:
    # A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Background:
    """The program in a session of its own, with its output in a file; whatever is left of it is killed at the end."""

    def __init__(self, command: list[str], env: dict[str, str], log: Path):
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=env,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.end_session()

    def output(self) -> str:
        return self.log.read_text()

    def wait_for_output(self, text: str, seconds: float = 600) -> None:
        def there() -> bool:
            assert self.process.poll() is None or text in self.output(), f"ended without '{text}':\n{self.output()}"
            return text in self.output()

        wait_for(there, f"'{text}'", seconds)

    def session(self) -> list[int]:
        """Ids of everything that this program started and that still runs."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:  # ended meanwhile
                continue
            if int(session) == self.process.pid and state != "Z":
                found.append(int(folder.name))
        return found

    def listens_on(self) -> set[str]:
        """The addresses at which this program and all that it started accept connections."""
        family = {self.process.pid, *self.session()}
        family |= {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
        sockets = [one for one in psutil.net_connections("tcp") if one.pid in family and one.status == "LISTEN"]
        return {one.laddr.ip.removeprefix("::ffff:") for one in sockets}

    def end_session(self) -> None:
        for process_id in self.session():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, signal.SIGKILL)
        self.process.wait(timeout=60)


@dataclass(frozen=True)
class Finished:
    """What a run left under ``home``."""

    home: Path
    stdout: str = ""
    stderr: str = ""

    @property
    def output(self) -> Path:
        return self.home / "runs" / "digits"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.home / 'runs' / 'mlflow.db'}"

    def ingredients(self) -> list[IngredientRecord]:
        return read_table(self.output / "ingredients.parquet", IngredientRecord)

    def soups(self) -> list[SoupRecord]:
        return read_table(self.output / "soups.parquet", SoupRecord)

    def sweep(self) -> Sweep:
        return the_sweep(self.uri)


def the_sweep(uri: str) -> Sweep:
    """The only sweep in the store."""
    client = connect(uri)
    experiment = client.get_experiment_by_name("digits")
    (run,) = client.search_runs([experiment.experiment_id], "tags.role = 'sweep'")
    return Sweep(uri, "digits", run.data.tags["sweep_id"], experiment.experiment_id, run.info.run_id, run.data.tags)
