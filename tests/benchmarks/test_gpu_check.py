"""The check for GPUs where none is: its code runs on the CPU, and it tells of what breaks, is late, or is missing."""

import dataclasses
import importlib
import json
import sys

import gpu_check
import pytest
import torch
import vision_transformers
from gpu import full_size, memory, methods, repeat
from gpu.lines import GIB, Line

from pipeline.soups import Method

# What is the same on every device, and what only a GPU can tell.
EVERYWHERE = ("methods", "same-soup", "same-trial", "waits", "budgets")
MEASURED = ("same-seed-cost", "launches", "step", "whole", "out-of-memory", "scoring", "fine-tuning", "greedy")
WITH_RAY = ("assignment", "crowded-trials")
LINE = 'line: {"verdict": "PASS", "what": "one", "measured": "1", "aim": "-", "value": 1.0}'


@pytest.fixture
def look(monkeypatch, tmp_path):
    """Runs a part on the CPU in this process."""

    def run_script(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        monkeypatch.setenv("BENCHMARK_RESULTS", str(tmp_path / "results"))
        importlib.import_module(name).main()
        (record,) = (tmp_path / "results").iterdir()
        result = json.loads(record.read_text())
        record.unlink()
        return result

    for module in (memory, repeat):
        monkeypatch.setattr(module, "in_process", lambda function, *arguments: function(*arguments))
    for module in (full_size, repeat):
        monkeypatch.setattr(module, "run_script", run_script)
    return lambda name: list(gpu_check.PARTS[name].look("cpu", "tiny", tmp_path / "models"))


def test_every_part_is_tested():
    assert {*EVERYWHERE, *MEASURED, *WITH_RAY} == gpu_check.PARTS.keys()


@pytest.mark.parametrize("name", EVERYWHERE)
def test_what_holds_on_every_device_holds_on_the_cpu(look, name):
    lines = look(name)
    assert lines
    assert [str(line) for line in lines if line.verdict != "PASS"] == []


@pytest.mark.parametrize("name", MEASURED)
def test_what_a_gpu_is_measured_by_is_measured_on_the_cpu(look, name):
    lines = look(name)
    assert lines
    assert [line.what for line in lines if line.value is not None and not line.value >= 0] == []


def test_coefficients_that_differ_between_devices_fail(monkeypatch, tmp_path):
    mehl_plus, call = methods.METHODS["mehl-plus"], Method.__call__
    seen = iter(range(2))

    def other_the_second_time(method, inputs, settings):
        soup = call(method, inputs, settings)
        return dataclasses.replace(soup, coefficients=soup.coefficients * (1 + 0.1 * next(seen)))

    monkeypatch.setattr(methods, "METHODS", {"mehl-plus": mehl_plus})
    monkeypatch.setattr(methods, "VARIANTS", {})
    monkeypatch.setattr(Method, "__call__", other_the_second_time)
    assert next(methods.against_cpu("cpu", "tiny", tmp_path)).verdict == "FAIL"


def test_soups_that_run_out_of_memory_pass_where_they_do_as_promised(look, monkeypatch):
    room = [99]  # images in a forward pass

    def limit(device, num_bytes):
        room[0] = 1 if num_bytes > GIB else 0

    def build(size):
        model = vision_transformers.build(size)
        model.register_forward_pre_hook(allocate)
        return model

    def allocate(model, arguments):
        if len(arguments[0]) > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(memory, "limit_memory", limit)
    monkeypatch.setattr(memory, "reserved_bytes", lambda device: GIB)
    monkeypatch.setattr(memory, "build", build)
    lines = look("out-of-memory")
    assert [line.verdict for line in lines] == ["PASS"] * 3
    assert lines[0].measured == "out of memory with 2 images at a time; going on with 1"


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """Reads the record of the CPU's check."""
    monkeypatch.setenv("BENCHMARK_RESULTS", str(tmp_path))
    return lambda: json.loads((tmp_path / "gpu_check-cpu-tiny.json").read_text())["parts"]


def test_a_part_is_recorded_as_it_was_told(recorded, capsys):
    assert gpu_check.check(["scoring"], "cpu", "tiny") == 0
    part = recorded()["scoring"]
    assert {"machine", "commit", "versions", "command", "seconds", "lines"} == part.keys()
    assert [Line(**line).verdict for line in part["lines"]] == ["PASS"]
    assert str(Line(**part["lines"][0])) in capsys.readouterr().out


def test_a_failure_is_the_exit_status_and_later_parts_join_the_record(recorded, monkeypatch, capsys):
    lines = {"step": [Line("FAIL", "step", "2", "<= 1")], "methods": [Line("PASS", "one", "1")]}
    monkeypatch.setattr(gpu_check, "lines_of", lambda name, command, limit: lines[name])
    assert gpu_check.check(["step"], "cpu", "tiny") == 1
    assert gpu_check.check(["methods"], "cpu", "tiny") == 0
    assert list(recorded()) == ["methods", "step"]
    assert "0 PASS, 1 FAIL, 0 SKIP" in capsys.readouterr().out


def test_a_part_that_breaks_has_failed_and_keeps_what_it_found():
    code = f"print({LINE!r}, flush=True); print('chatter'); raise ValueError('no such kernel\\nsee elsewhere')"
    lines = list(gpu_check.lines_of("step", [sys.executable, "-c", code], 60))
    assert [(line.verdict, line.measured) for line in lines] == [("PASS", "1"), ("FAIL", "ValueError: no such kernel")]


def test_a_part_that_does_not_end_is_ended_with_its_children():
    code = "import subprocess; print('child', flush=True); subprocess.run(['sleep', '600'])"
    (line,) = gpu_check.lines_of("step", [sys.executable, "-c", code], 2)
    assert (line.verdict, line.measured) == ("FAIL", "not done after 2 s")


def test_without_a_gpu_it_says_so_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--quick"])
    with pytest.raises(SystemExit) as stopped:
        gpu_check.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "finds no CUDA device" in said


def test_parts_whose_packages_are_missing_are_skipped_by_name():
    names = ("fine-tuning", "assignment", "crowded-trials")
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('ray', 'mlflow', 'open_clip', 'pydantic', 'yaml', 'pyarrow')))\n"
        "import gpu_check, pathlib\n"
        f"for name in {names}: gpu_check.tell(name, 'cpu', 'tiny', pathlib.Path())"
    )
    lines = list(gpu_check.lines_of("packages", [sys.executable, "-c", code], 120))
    assert [(line.verdict, line.what) for line in lines] == [("SKIP", name) for name in names]
    assert [line.measured.split()[2] for line in lines] == ["pydantic", "ray", "ray"]


@pytest.mark.system
def test_ray_gives_each_task_a_process_and_a_gpu(recorded):
    gpu_check.check(WITH_RAY, "cpu", "tiny")
    verdicts = {line["what"]: line["verdict"] for part in recorded().values() for line in part["lines"]}
    assert verdicts.pop("2 trials that share a GPU too small for two go on") == "FAIL", "there is no GPU to share"
    assert set(verdicts.values()) == {"PASS"}
    assert len(verdicts) == 4
