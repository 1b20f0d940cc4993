"""The command line as a whole: what it loads before it answers."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.cluster import only_result
from pipeline.commands import COMMANDS, main
from pipeline.commands.common import guarded
from pipeline.errors import SoupError

HEAVY = ("torch", "ray", "mlflow", "plotly", "matplotlib", "pandas", "scipy")


def loaded(code: str) -> set[str]:
    """Which of the heavy libraries a new process has loaded after ``code``."""
    tell = f"print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\n{tell}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("asked", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_no_heavy_library(asked):
    code = f"""
from pipeline.commands import main
try:
    main({asked!r})
except SystemExit as ended:
    assert not ended.code
"""
    assert loaded(code) == set()


def test_help_of_all_commands_needs_none_of_their_modules():
    code = "from pipeline.commands import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    check = "assert not [name for name in sys.modules if name.startswith('pipeline.commands.')]"
    assert loaded(f"{code}\n{check}") == set()


@pytest.mark.parametrize(
    "module",
    [
        "pipeline.studies",
        "pipeline.records.folder",
        "pipeline.report",
        "pipeline.stages.state",
        "pipeline.soup_requests",
    ],
)
def test_records_and_studies_load_no_heavy_library(module):
    assert loaded(f"import {module}") & {"torch", "ray", "mlflow"} == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: soup-pipeline {name}" in capsys.readouterr().out


def test_an_unknown_command_names_the_others(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["soop"])
    assert ended.value.code == 2
    assert "invalid choice: 'soop'" in capsys.readouterr().err


def test_a_disk_that_is_full_is_a_line_and_another_error_is_none(capsys):
    def write_a_figure():
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/digits/figures/methods.png")

    assert guarded(write_a_figure) == 2
    assert capsys.readouterr().err == (
        "error: /runs/digits/figures/methods.png: No space left on device; what is done is kept, and the same command "
        "goes on once there is room and the disk works\n"
    )
    with pytest.raises(FileNotFoundError):
        guarded(Path("/runs/digits/no such file").unlink)


@pytest.mark.parametrize("in_a_task", [True, False])
def test_a_gpu_that_is_out_of_memory_is_a_line_wherever_that_happens(session_ray, capsys, in_a_task):
    # Beside the methods, which say more: what evaluates soups, makes theta0, measures checkpoints.
    def evaluate_on_a_full_gpu():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nProcess 7 has the rest.")
        yield

    def job():
        if in_a_task:
            only_result(evaluate_on_a_full_gpu, {"num_cpus": 1}, (), SoupError, "a soup task")
        next(evaluate_on_a_full_gpu())

    assert guarded(job) == 2
    assert capsys.readouterr().err == (
        "error: a GPU is out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); end what else runs on it and "
        "give the same command again: what is done is kept\n"
    )
    with pytest.raises(RuntimeError, match="something else"):
        guarded(lambda: (_ for _ in ()).throw(RuntimeError("something else")))
