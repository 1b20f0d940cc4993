"""Ray nodes of our own: a head, and workers that share neither files nor loopback nor processes with it."""

import contextlib
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from program import ROOT, Background, environment, free_ports, wait_for

_NUMBERS = itertools.count()
RAY = Path(sys.executable).with_name("ray")
_SMALL = ("--object-store-memory=200000000", "--min-worker-port=0", "--max-worker-port=0")


@dataclass(frozen=True)
class Head:
    """A head node. ``home`` is the home folder of its processes, ``env`` what the user's shell has.

    ``address`` is where jobs are submitted, ``gcs`` where nodes join, ``metrics`` where Prometheus may ask, ``session``
    the folder of Ray's own files.
    """

    address: str
    gcs: str
    metrics: str
    home: Path
    session: Path
    env: dict[str, str]

    def submit_command(
        self, *arguments: str, settings: dict[str, str] | None = None, command: Sequence[str] = ("pipeline/run.py",)
    ) -> list[str]:
        """What a user types to submit the pipeline."""
        extra = () if settings is None else ("--runtime-env-json", json.dumps({"env_vars": settings}))
        submit = [str(RAY), "job", "submit", "--address", self.address, "--working-dir", ".", *extra]
        return [*submit, "--", "python", *command, *arguments]

    def submit(self, *arguments: str, settings: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        """Submit from a clone of this project, and wait."""
        return self.submit_from(ROOT, self.submit_command(*arguments, settings=settings))

    def submit_from(self, folder: Path, command: Sequence[str]) -> subprocess.CompletedProcess:
        """Give the command in ``folder``, which is the job's working directory, and wait."""
        return subprocess.run(command, cwd=folder, env=self.env, capture_output=True, text=True, timeout=900)

    def working_copies(self) -> list[Path]:
        """The unpacked working directories of jobs."""
        copies = self.session / "session_latest" / "runtime_resources" / "working_dir_files"
        return [path for path in copies.iterdir() if path.is_dir()]


@contextlib.contextmanager
def head_node(folder: Path, ip: str = "127.0.0.1", cpus: int = 2, **shell: str) -> Iterator[Head]:
    """A head node with ports, a home and a temporary folder of its own; stopped by its process id.

    ``shell`` are environment variables of its processes and its users.
    """
    home = folder / "user"
    home.mkdir()
    session = Path(tempfile.mkdtemp(prefix="ray-"))  # short: it holds Unix sockets
    path = f"{RAY.parent}:{environment()['PATH']}"  # as in an activated virtual environment
    env = environment(HOME=str(home), PATH=path, RAY_AUTH_MODE="token", RAY_USAGE_STATS_ENABLED="0", **shell)
    token = subprocess.run(
        [RAY, "get-auth-token", "--generate"], env=env, check=True, capture_output=True, text=True
    ).stdout.strip()
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    names += ("dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    options = [f"--{name}={port}" for name, port in ports.items()]
    options += [f"--node-ip-address={ip}", "--dashboard-host=127.0.0.1", f"--temp-dir={session}"]
    command = [str(RAY), "start", "--head", "--block", f"--num-cpus={cpus}", *_SMALL, *options]
    address = f"http://127.0.0.1:{ports['dashboard-port']}"

    def answers() -> bool:
        try:
            request = Request(f"{address}/api/version", headers={"Authorization": f"Bearer {token}"})
            return urlopen(request, timeout=5).status == 200
        except (URLError, OSError):
            return False

    with Background(command, env, folder / "head.log") as running:
        wait_for(lambda: answers() or running.process.poll() is not None, "a head node", 120)
        assert running.process.poll() is None, running.output()
        try:
            gcs, metrics = f"{ip}:{ports['port']}", f"{ip}:{ports['metrics-export-port']}"
            yield Head(address, gcs, metrics, home, session, {**env, "RAY_AUTH_TOKEN": token})
        finally:
            running.process.terminate()
            running.process.wait(timeout=90)
            shutil.rmtree(session, ignore_errors=True)


@dataclass(frozen=True)
class Link:
    """A network of two: the machine at ``near``, the namespace ``name`` at ``far``."""

    name: str
    near: str
    far: str


@contextlib.contextmanager
def network() -> Iterator[Link]:
    """A network namespace joined to the machine's."""
    number, place = next(_NUMBERS), os.getpid() % 250
    link = Link(f"soup{os.getpid()}-{number}", f"10.213.{place}.1", f"10.213.{place}.2")
    outside, inside = f"s{os.getpid()}a{number}", f"s{os.getpid()}b{number}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=60)

    ip("netns", "add", link.name)
    try:
        ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", link.name)
        ip("address", "add", f"{link.near}/24", "dev", outside)
        ip("link", "set", outside, "up")
        ip("-n", link.name, "address", "add", f"{link.far}/24", "dev", inside)
        for device in ("lo", inside):
            ip("-n", link.name, "link", "set", device, "up")
        yield link
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("link", "delete", outside)  # with the namespace it would go some time later
        ip("netns", "delete", link.name)


def worker_node(head: Head, link: Link, hidden: Sequence[Path], log: Path) -> Background:
    """A worker at the far end of ``link``: its own processes, empty folders in place of the ``hidden`` ones.

    What it writes below those is in memory, and gone with it. Killed as a whole when its first process is killed.
    """
    hide = [f"mount -t tmpfs none {shlex.quote(str(folder))}" for folder in (*hidden, head.session, Path("/dev/shm"))]
    start = [str(RAY), "start", f"--address={head.gcs}", f"--node-ip-address={link.far}", "--num-cpus=1", "--block"]
    script = " && ".join([*hide, shlex.join(["exec", *start, *_SMALL])])
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL", "bash", "-c", script]
    home = {"HOME": str(head.session)}  # empty, and its own
    return Background(["ip", "netns", "exec", link.name, *unshare], {**head.env, **home}, log)


def namespaces_allowed() -> bool:
    """Whether this machine lets us make namespaces and join them."""
    try:
        with network():
            return subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False
