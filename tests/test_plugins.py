"""Settings that name modules from outside, and what is said of those that cannot be imported."""

import sys

import pytest

from pipeline.config import import_plugins, load_config
from pipeline.errors import ConfigError

BASE = """
name: tiny
data: {source: digits, image_size: 8, test_size: 100}
model: {backbone: open_clip, architecture: {embed_dim: 8}}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with modules in it, which no other test sees."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(**modules):
        for name, code in modules.items():
            (tmp_path / f"{name}.py").write_text(code)
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("theirs_"):
            del sys.modules[name]


def error_of(path, overrides, known):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, known)
    return str(caught.value)


def test_a_plug_in_is_imported_before_the_settings_are_checked(project, known, write_config):
    from pipeline.soups import METHODS

    project(
        theirs_method="from dataclasses import replace\nfrom pipeline.soups import METHODS\n"
        "METHODS['theirs'] = replace(METHODS['uniform'], name='theirs')\n"
    )
    path = write_config(BASE + "soup: {methods: [theirs]}\n")
    assert "soup.methods.0: unknown name 'theirs'" in error_of(path, [], known)
    try:
        config = load_config(path, ["plugins=[theirs_method]"], known)
        assert config.plugins == ["theirs_method"]
        assert config.soup.methods == ["theirs"]
    finally:
        METHODS.pop("theirs", None)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            None,
            r"'theirs_broken' cannot be imported (ModuleNotFoundError: No module named 'theirs_broken'); install it",
        ),
        ("def f(:\n", "'theirs_broken' cannot be imported (SyntaxError: "),
        ("raise KeyError('a\\nb')", "'theirs_broken' cannot be imported (KeyError: "),
        ("import no_such_library", "(ModuleNotFoundError: No module named 'no_such_library')"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_one_line(project, code, said):
    if code is not None:
        project(theirs_broken=code)
    with pytest.raises(ConfigError) as caught:
        import_plugins(["theirs_broken"])
    message = str(caught.value)
    assert message.startswith("plugins: ")
    assert said in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("theirs", "plugins: input should be a valid list"),
        ("[1]", "plugins.0: `1` is read as the number 1; put it in quotes if text is meant"),
        ("[sys, sys]", "plugins: listed twice: sys"),
    ],
)
def test_a_list_of_names_is_asked_for(known, write_config, value, said):
    assert said in error_of(write_config(BASE), [f"plugins={value}"], known)


def test_the_hyperparameters_of_a_training_function_are_checked_by_its_own_kind(project, known, write_config):
    from pipeline.finetune import TRAINERS

    project(
        theirs_trainer="from pydantic import Field\nfrom pipeline.finetune import TRAINERS, Trainer, finetune\n"
        "from pipeline.records import Hyperparameters\n"
        "class Theirs(Hyperparameters):\n    momentum: float = Field(ge=0, lt=1)\n    steps: int = 3\n"
        "TRAINERS['theirs'] = Trainer(finetune, Theirs)\n"
    )
    path = write_config(BASE + "plugins: [theirs_trainer]\nsearch: {trainer: theirs}\n")
    try:
        assert "search.distributions: trainer 'theirs' needs 'momentum' too" in error_of(path, [], known)
        wrong = error_of(path, ["search.distributions={momentum: {uniform: [0.5, 2]}}"], known)
        assert "momentum: cannot be 2" in wrong
        misspelt = error_of(path, ["search.distributions={momentun: 0.5, momentum: 0.5}"], known)
        assert "'momentun' is no hyperparameter; did you mean 'momentum'?" in misspelt
        config = load_config(path, ["search.distributions.momentum.uniform=[0.5, 0.9]", "search.num_trials=3"], known)
        ours = load_config(path, ["search.trainer=finetune", "search.num_trials=3"], known)

        from pipeline.search.sampling import sample_trials

        theirs = [trial.hyper for trial in sample_trials(config.search, seed=0)]
        assert all(0.5 <= hyper.momentum <= 0.9 and hyper.steps == 3 for hyper in theirs)
        for one, other in zip(theirs, sample_trials(ours.search, seed=0), strict=True):
            assert one.model_dump(exclude={"momentum", "steps"}) == other.hyper.model_dump(), "others are drawn alike"
    finally:
        TRAINERS.pop("theirs", None)
    assert "search.trainer: unknown name 'theirs'" in error_of(path, [], known)
