"""Benchmarks measure what their options say: that many images at a time, models in a block, steps."""

import json
import sys

import evidence
import greedy
import pytest
import soup_step
import soup_whole
import torch
from sizes import batch_sizes, same


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a benchmark with these options; returns what it recorded."""
    monkeypatch.setenv("BENCHMARK_RESULTS", str(tmp_path / "results"))

    def call(benchmark, options):
        monkeypatch.setattr(sys, "argv", [benchmark.__file__, *options.split()])
        benchmark.main()
        (path,) = (tmp_path / "results").iterdir()
        return json.loads(path.read_text())

    return call


@pytest.fixture
def refusal(run, capsys):
    """Runs a benchmark that refuses its options; returns what it said."""

    def call(benchmark, options):
        with pytest.raises(SystemExit) as stopped:
            run(benchmark, options)
        assert stopped.value.code == 2
        return capsys.readouterr().err

    return call


def test_a_whole_soup_has_the_sizes_that_were_asked_for(run, tmp_path):
    sizes = "--size xs --counts 3 6 --block 3 --batch 5 --images 10 --steps 2 --delta-dtype int8"
    recorded = run(soup_whole, f"{sizes} --folder {tmp_path / 'models'}")
    assert recorded["options"]["images"] == 10
    found = [(result["count"], result["blocks"], result["steps"]) for result in recorded["results"]]
    assert found == [(3, 1, 2), (6, 2, 4)]


def test_a_step_has_the_sizes_that_were_asked_for(run):
    recorded = run(soup_step, "--size xs --block 2 --batch 3 --rounds 1 --delta-dtype bfloat16")
    assert recorded["options"] | {"block": 2, "batch": 3, "delta_dtype": "bfloat16"} == recorded["options"]
    assert recorded["tensors"] == 20


def test_greedy_chooses_from_all_models(run, tmp_path):
    recorded = run(greedy, f"--size xs --count 3 --images 4 --batch 2 --folder {tmp_path / 'models'}")
    assert len(recorded["accuracies"]) == 3
    assert recorded["released_passes"] == 5


def test_images_that_fill_no_batch_are_refused(refusal):
    for benchmark in (soup_whole, greedy):
        assert "--images 32 is no multiple of --batch 128" in refusal(benchmark, "--batch 128 --images 32")


def test_models_that_fill_no_block_are_refused(refusal):
    assert "--counts 4 is no multiple of --block 18" in refusal(soup_whole, "--counts 4 --block 18")


def test_settings_that_a_kept_study_would_not_follow_are_refused(refusal):
    assert "give another --records folder" in refusal(evidence, "search.num_trials=3")
    assert "seed, name and output follow from" in refusal(evidence, "--records elsewhere seed=3")


def test_another_size_than_asked_for_ends_the_benchmark():
    model = torch.nn.Linear(2, 2)
    with batch_sizes(model) as seen:
        model(torch.zeros(3, 2))
    with pytest.raises(SystemExit, match=r"images at a time: \{3\}, but \{4\} was asked for"):
        same("images at a time", seen, {4})
