"""Sweeps that run out of memory or lose a node, on a real Ray of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from program import environment

from pipeline.records import IngredientRecord

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

SWEEP = Path(__file__).parent / "troubled_sweep.py"


def run_troubled(kind, folder):
    done = subprocess.run(
        [sys.executable, SWEEP, kind, folder], env=environment(), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    rows = [IngredientRecord.model_validate_json(line) for line in (folder / "rows").read_text().splitlines()]
    assert sorted(row.trial_index for row in rows) == [0, 1, 2], "one record for each trial"
    return {row.trial_index: row for row in rows}, done.stdout


def test_a_trial_that_takes_all_memory_fails_alone_and_the_sweep_goes_on(tmp_path):
    rows, said = run_troubled("memory", tmp_path)
    assert [rows[index].status for index in range(3)] == ["finished", "failed", "finished"]
    assert rows[1].reason == "the node ran low on memory although no other trial was running"
    assert rows[1].attempts >= 2
    assert "going on with 1 at a time" in said


def test_a_node_that_leaves_takes_no_trial_with_it(tmp_path):
    rows, _ = run_troubled("node", tmp_path)
    assert {row.status for row in rows.values()} == {"finished"}
    assert rows[1].attempts == 2
    assert rows[1].images_seen == rows[0].images_seen
