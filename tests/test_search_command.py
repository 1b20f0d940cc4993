from pathlib import Path

from pipeline.commands import main

DIGITS = str(Path(__file__).resolve().parents[1] / "configs" / "digits.yaml")


def listed(capsys, *overrides):
    assert main(["search", "--dry-run", "--config", DIGITS, *overrides]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_prints_the_trials_and_leaves_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    lines = listed(capsys, "search.num_trials=5")
    assert lines[0].startswith("5 trials, all with batch_size 50")
    assert lines[1].split()[:4] == ["trial", "lr", "weight_decay", "epochs"]
    assert [line.split()[0] for line in lines[2:]] == list("01234")
    assert len({len(line) for line in lines[1:]}) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_seed_makes_the_list_and_a_longer_one_begins_with_it(capsys):
    same = [listed(capsys, "search.num_trials=4")[2:] for _ in range(2)]
    assert same[0] == same[1]
    assert listed(capsys, "search.num_trials=4", "seed=1")[2:] != same[0]
    cells = [line.split() for line in listed(capsys, "search.num_trials=9")[2:6]]
    assert cells == [line.split() for line in same[0]]


def test_mistakes_are_named(capsys):
    assert main(["search", "--dry-run", "--config", DIGITS, "search.space=standard_grid"]) == 2
    assert "did you mean 'standard-grid'?" in capsys.readouterr().err
