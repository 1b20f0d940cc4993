"""What goes on beside the trials, where it fails; the rest is in system/test_system_live.py."""

import logging
from types import SimpleNamespace

import pytest
from samples import config, ingredient

from pipeline.registry import Sweep
from pipeline.stages.live import Live
from pipeline.stages.state import RunState, Stopped, stop_rule

LIVE = {"study": {"cost_accuracy": {"step": 2, "live": True}}}


def a_run(tmp_path, stopped=None, **sections):
    sweep = Sweep("sqlite:///no.db", "live", "sweep-1", "1", "run", {})
    state = RunState(sweep_id="sweep-1", num_trials=8, stopped=stopped)
    return SimpleNamespace(sweep=sweep, state=state, config=config(output=str(tmp_path / "run"), **sections))


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Of two trials each a soup is due, whose task works for a while and then fails."""

    def build(self, inputs, due):
        yield False
        yield True
        raise ValueError("a method went wrong\nand said more")

    def due(self, inputs):
        name = f"greedy-{inputs // 2}"
        return [] if inputs % 2 or name in self._asked else [SimpleNamespace(name=name)]

    monkeypatch.setattr(Live, "_inputs", lambda self, rows: len(rows))
    monkeypatch.setattr(Live, "_due", due)
    monkeypatch.setattr(Live, "_build", build)
    return Live(a_run(tmp_path, **LIVE), 8)


def test_a_soup_that_fails_costs_a_line_and_no_trial(broken, caplog):
    rows = [ingredient(0), ingredient(1)]
    with caplog.at_level(logging.INFO, "pipeline"):
        assert [broken.look(rows) for _ in range(4)] == [False, True, True, True], "trials wait for its room alone"
        assert caplog.messages == ["live: a method went wrong; the sweep goes on, and the study builds what is missing"]
        assert broken.reason is None
        assert broken.look([*rows, ingredient(2)])
        assert not broken.look([*rows, ingredient(2), ingredient(3)]), "the next point is built as if nothing had been"


@pytest.mark.parametrize(("now", "is_stopped"), [({"max_gpu_hours": 1.0}, True), ({"max_gpu_hours": 2.0}, False)])
def test_a_rule_that_has_ended_the_sweep_stands_until_there_is_another(tmp_path, now, is_stopped):
    before = stop_rule(a_run(tmp_path, search={"stop": {"max_gpu_hours": 1.0}}, **LIVE).config)
    run = a_run(tmp_path, Stopped(rule=before, reason="over budget"), search={"stop": now}, **LIVE)
    assert Live(run, 8).reason == ("over budget" if is_stopped else None)
