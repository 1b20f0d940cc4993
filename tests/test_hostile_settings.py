"""Whatever stands in the settings, they are loaded or refused in lines that a terminal can show."""

import contextlib

import pytest
from hostile import GOOD, hostile_settings

from pipeline.commands import main
from pipeline.commands.import_ import read_accuracy_file
from pipeline.commands.search import dry_run
from pipeline.config import dump_config, load_config
from pipeline.config.yaml_text import dump_yaml
from pipeline.errors import ConfigError, PipelineError, printable, quoted
from pipeline.registry.client import redact
from pipeline.search.sampling import sample_trials


@pytest.fixture
def good(write_config, known):
    """Loads the good settings with overrides."""

    def load(*overrides):
        return load_config(write_config(dump_yaml(GOOD)), overrides, known)

    return load


def refusal(load, *arguments):
    """The lines of the error, each short and printable."""
    with pytest.raises(ConfigError) as caught:
        load(*arguments)
    lines = str(caught.value).split("\n")
    assert all(len(line) < 1500 and line.isprintable() for line in lines), lines
    assert len(lines) <= 60
    return str(caught.value)


@pytest.mark.parametrize("seed", range(0, 300, 50))
def test_odd_settings_are_loaded_or_refused(write_config, known, seed):
    accepted = 0
    for number in range(seed, seed + 50):
        text, overrides = hostile_settings(number)
        path = write_config(text)
        try:
            config = load_config(path, overrides, known)
        except ConfigError:
            refusal(load_config, path, overrides, known)
            continue
        accepted += 1
        again = load_config(write_config(dump_config(config), "again.yaml"), [], known)
        assert again.model_dump() == config.model_dump(), number
    assert accepted > 1


def test_what_is_accepted_can_be_tried_dry(write_config, known, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    tried = 0
    for number in range(50):
        text, overrides = hostile_settings(number)
        try:
            config = load_config(write_config(text), overrides, known)
        except ConfigError:
            continue
        tried += 1
        with contextlib.suppress(PipelineError):
            dry_run(config)
    assert tried > 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("search.space=[]", "search.space: input should be a valid string, got []"),
        ("search.num_trials=1e30", "search.num_trials: input should be less than or equal to"),
        ("seed=12345678901234567890", "seed: input should be less than or equal to 9223372036854775807"),
        ("seed=" + "9" * 5000, "cannot be read as int"),
        ("search.distributions.lr={uniform: [0, .inf]}", "search.distributions.lr.uniform.1: input should be a finite"),
        ("search.distributions.lr={uniform: [-1e308, 1e308]}", "too far from each other"),
        ("report.price_per_gpu_hour=.inf", "report.price_per_gpu_hour: input should be"),
        ("data.memory_gib=inf", "data.memory_gib: input should be a valid number, got 'inf'"),
        ("soup.settings.mehl.memory_budget_gib=.inf", "memory_budget_gib: input should be a finite number"),
        ("data.class_names=[]", "data.class_names: list should have at least 1 item"),
        ("data.class_names=['', a]", "data.class_names.0: string should have at least 1 character"),
        ("data.image_size=true", "data.image_size: `true` is read as the truth value true, which"),
        ("data.image_size='8'", "data.image_size: input should be a valid integer, got '8'"),
        ("soup=0", "soup: input should be a valid dictionary"),
        ("search.num_trials=2024-99-99", "`2024-99-99` is read as a date"),
        ("search.num_trials=!!int abc", "'abc' cannot be read as int"),
        ("search.num_trials=!!set {a}", "is of the kind 'set', which no setting takes"),
        ("data.train=~nouser/x", "data.train: '~nouser/x' begins with a home folder that there is not"),
        ("output=~nouser/x", "output: '~nouser/x' begins with a home folder"),
        ("data.train=/x/" + "a" * 300, "data.train: '/x/aaa"),
        ("output=" + "a" * 300, "is too long: its longest name has 300 bytes"),
        ('data.root="a\\0b"', r"'a\x00b' has letters that cannot be printed"),
        ('data.root="\\ud800"', r"'\ud800' has letters that cannot be printed"),
        ("registry.tracking_uri='http://['", "registry.tracking_uri: 'http://[' is no address"),
        ("registry.tracking_uri=sqlite:///" + "a" * 300, "registry.tracking_uri: '/"),
        ("model.std=[0, 1, 1]", "model.std.0: input should be greater than 0"),
        ("model.architecture.embed_dim=1e30", "model.architecture: 1e+30 is no size of a part of a network"),
        ("model.architecture=" + "[" * 500 + "]" * 500, "more than 20 groups within each other"),
        (".".join("a" * 500) + "=1", "has more than 20 groups within each other"),
        ("plugins=[x" + "y" * 5000 + "]", "plugins: 'xyy"),
    ],
    ids=lambda value: value[:40],
)
def test_a_value_that_cannot_be_is_a_line(good, override, said):
    message = refusal(good, override)
    assert said in message
    assert "\n" not in message


def test_numbers_of_the_right_kind_are_taken(good):
    config = good("search.num_trials=1e3", "seed=9223372036854775807", "soup.settings.mehl.inner_iterations=1e2")
    assert (config.search.num_trials, config.seed) == (1000, 2**63 - 1)
    assert config.soup.settings["mehl"]["inner_iterations"] == 100
    assert len(sample_trials(good("seed=9223372036854775807").search, 2**63 - 1)) == 3


def test_grids_of_too_many_combinations_are_refused(good):
    grid = f"{{grid: [{', '.join(str(number / 1000) for number in range(400))}]}}"
    assert "320000 combinations" in refusal(good, *(f"search.distributions.{name}={grid}" for name in ("lr", "mixup")))


def test_a_text_that_grows_is_refused(write_config, known):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    merged = "a0: &a0 {k: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
    )
    for text in (bomb, merged):
        assert "with its aliases written out" in refusal(load_config, write_config(text), [], known)
    large = write_config("name: " + "x" * 2**20)
    assert "is not valid YAML: more than 1048576 characters" in refusal(load_config, large, [], known)


def test_very_many_problems_are_not_all_told(write_config, known):
    message = refusal(load_config, write_config("\n".join(f"k{i}: 1" for i in range(3000))), [], known)
    assert message.splitlines()[-1].startswith("  and 295")


def test_a_home_that_there_is_not_and_a_working_directory_that_is_gone(good, monkeypatch, tmp_path):
    monkeypatch.setenv("PIPELINE_HOME", "~nouser/x")
    assert refusal(good).startswith("PIPELINE_HOME: '~nouser/x' begins with a home folder")
    monkeypatch.delenv("PIPELINE_HOME")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "the working directory is not there any more" in refusal(good)


def test_what_a_library_says_of_a_value_is_shortened_too(capsys, write_config):
    odd = f"model.architecture.{'a' * 5000}=1"
    assert main(["search", "--dry-run", "--config", str(write_config(dump_yaml(GOOD))), odd]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: model.architecture: open_clip cannot build it: ")
    assert len(error) < 1600


def test_stores_on_the_command_line(capsys):
    for uri in ("sqlite:///" + "a" * 300, "http://[", "sqlite:///~nouser/x"):
        assert main(["verify", "x", "--tracking-uri", uri]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_paths_on_the_command_line(capsys, write_config):
    config = str(write_config(dump_yaml(GOOD)))
    soup = ["soup", "--config", config, "--ingredients", "x", "--out", "x" * 300]
    for arguments, said in (
        (["import", "x", "--config", config, "--theta0", "~nouser/x"], "argument --theta0: '~nouser/x' begins with"),
        (soup, "argument --out: "),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
    assert main(["import", "~nouser/x", "a" * 300, "--config", config]) == 2
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["error", "  PATH"]


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("gpu_hours", "inf"),
        ("gpu_hours", "1e300"),
        ("images_seen", "12345678901234567890"),
        ("images_seen", "-1"),
        ("epochs", "12345678901234567890"),
        ("lr", "\x1b[31m" + "x" * 5000),
        ("val_accuracy", "nan"),
    ],
)
def test_cells_that_cannot_be_are_a_line(tmp_path, column, cell):
    file = tmp_path / "known.csv"
    file.write_text(f"path,{column}\na.pt,{cell}\n")
    message = refusal(read_accuracy_file, file, [tmp_path / "a.pt"])
    assert f"line 2, column '{column}'" in message
    assert "\n" not in message


def test_a_value_is_quoted_in_a_line():
    assert quoted("a\nb\x1b") == r"'a\nb\x1b'"
    assert len(quoted("x" * 10**6)) == len(quoted(list(range(10**5)))) == 100
    assert quoted(10**5000) == "a int too large to show"
    assert printable("\x1b[31m\u202eü\ud800") == r"\x1b[31m\u202eü\ud800"
    assert redact("http://[u:secret@h") == "h"
