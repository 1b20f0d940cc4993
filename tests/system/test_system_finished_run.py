"""The whole line, run by its command: what it says, what it leaves behind, and that a second call does nothing."""

import re
import sys
from pathlib import Path

import pytest
from program import CONFIG, MODULE, SCRIPT, SMALL, run_program

from pipeline.registry import list_ingredients, read_trials

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]
CONSOLE_COMMAND = Path(sys.executable).with_name("soup-pipeline")


def test_all_records_are_there(finished):
    for name in ("config.yaml", "run.json", "state.json", "cost_accuracy.parquet", "report.html"):
        assert (finished.output / name).stat().st_size > 0
    rows, soups = finished.ingredients(), finished.soups()
    assert [row.status for row in rows] == ["finished"] * 3
    models = ["best-individual", "uniform", "greedy", "mehl", "mehl-plus"]
    assert [row.method for row in soups] == [*models, "ensemble"]
    assert sorted(path.stem for path in (finished.output / "soups").iterdir()) == sorted(models)
    assert sorted(path.stem for path in (finished.output / "coefficients").iterdir()) == sorted(models)
    assert sorted(path.suffix for path in (finished.output / "figures").iterdir())
    left_over = list(finished.home.rglob("*partial*"))
    assert left_over == []
    assert not (finished.output / "trials").exists()


def test_the_registry_agrees_with_the_tables(finished):
    sweep = finished.sweep()
    assert read_trials(sweep) == finished.ingredients()
    versions = list_ingredients(sweep)
    assert [version.trial_index for version in versions] == [None, 0, 1, 2]
    assert [version.sha256 for version in versions[1:]] == [row.sha256 for row in finished.ingredients()]


def test_the_output_is_quiet(finished):
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert lines[0].endswith(f"run digits: output in {finished.output}")
    log, _, table = finished.stdout.partition("\n\n")
    event, ended_trial = r"  (run|data|prepared|search|trial|soup|study|report)\b", r" +[0-2]  .* [1-3]/3 "
    headings = r" {5,}[a-z]"  # of two lines, the second begins with "trial"
    # What there is to say of so small a run.
    advice = r"  warning: (data\.validation_size: the champion is chosen on the 20|search\.distributions: half of the)"
    ours = re.compile(rf"\d\d:\d\d:\d\d({event}|{ended_trial}|{headings}|{advice})")
    assert [line for line in log.splitlines() if not ours.match(line)] == []
    assert len(re.findall(advice, log)) == 2
    assert re.findall(r"(?i)warning|traceback|deprecat|\d+%\|", re.sub(advice, "", finished.stdout)) == []
    assert "mehl-plus" in table
    methods, _, next_steps = table.rpartition("\n\n")
    assert max(map(len, methods.splitlines())) <= 80
    assert [line.split()[0] for line in next_steps.splitlines()] == ["Read:", "Compare:", "Use:"]
    assert f"Read:    {finished.output / 'report.html'}\n" in next_steps


@pytest.mark.parametrize(
    "command", [SCRIPT, MODULE, (str(CONSOLE_COMMAND), "run")], ids=["script", "module", "console"]
)
def test_the_same_command_again_says_that_all_is_done(finished, command):
    if command[0] == str(CONSOLE_COMMAND) and not CONSOLE_COMMAND.exists():
        pytest.skip("the console command soup-pipeline is not installed beside this Python")
    before = {path: path.stat().st_mtime_ns for path in finished.home.rglob("*") if "mlflow.db" not in path.name}
    again = run_program(command, *CONFIG, *SMALL, home=finished.home)
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert "everything is done already" in again.stdout
    assert finished.stdout.partition("\n\n")[2] == again.stdout.partition("\n\n")[2], "another table than before"
    after = {path: path.stat().st_mtime_ns for path in finished.home.rglob("*") if "mlflow.db" not in path.name}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {".lock", "state.json", "config.yaml", "digits"}, "a second call wrote more than its settings"


def test_every_way_to_call_it_gives_the_same_help(tmp_path):
    if not CONSOLE_COMMAND.exists():
        pytest.skip("the console command soup-pipeline is not installed beside this Python")
    helps = []
    for command in (SCRIPT, MODULE, (str(CONSOLE_COMMAND), "run")):
        shown = run_program(command, "--help", home=tmp_path)
        assert shown.returncode == 0, shown.stderr
        assert shown.stderr == ""
        usage, _, rest = shown.stdout.partition("\n\n")
        assert "--config FILE" in usage
        helps.append(rest)
    assert helps[0] == helps[1] == helps[2]
    assert list(tmp_path.iterdir()) == []
