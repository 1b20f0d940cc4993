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
    assert [line.split()[0] for line in lines[2:7]] == list("01234")
    assert len({len(line) for line in lines[1:7]}) == 1
    assert lines[7].startswith("data: 300 pretrain, 500 train, 400 fit, 100 select, 497 test; an accuracy is known to")
    assert len(lines) == 8
    assert list(tmp_path.iterdir()) == []


def test_the_seed_makes_the_list_and_a_longer_one_begins_with_it(capsys):
    same = [listed(capsys, "search.num_trials=4")[2:6] for _ in range(2)]
    assert same[0] == same[1]
    assert listed(capsys, "search.num_trials=4", "seed=1")[2:6] != same[0]
    cells = [line.split() for line in listed(capsys, "search.num_trials=9")[2:6]]
    assert cells == [line.split() for line in same[0]]


def test_mistakes_are_named(capsys):
    assert main(["search", "--dry-run", "--config", DIGITS, "search.space=standard_grid"]) == 2
    assert "did you mean 'standard-grid'?" in capsys.readouterr().err


def test_what_can_be_known_beforehand_is_said(capsys, caplog):
    """What splits cannot tell apart, settings that teach little, and mistakes that would surface later."""
    small = ("data.pretrain_size=20", "data.train_size=30", "data.validation_size=20", "search.num_trials=2")
    lines = listed(capsys, *small, "search.distributions.batch_size=64", "search.distributions.epochs=3")
    assert "batch_size 30" in lines[0]
    assert [message.partition(": ")[0] for message in caplog.messages] == [
        "data.validation_size", "search.distributions.batch_size", "search.distributions",
    ]  # fmt: skip
    assert main(["search", "--dry-run", "--config", DIGITS, "data.train_size=5000"]) == 2
    assert "error: data: the splits ask for more than the 1797 images there are" in capsys.readouterr().err
    assert main(["search", "--dry-run", "--config", DIGITS, "data.image_size=32"]) == 2
    assert "error: data.image_size: the model takes no images of 32 x 32 pixels" in capsys.readouterr().err
