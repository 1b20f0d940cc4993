import itertools
import math

import numpy as np
import pytest
from samples import search_config
from scipy import stats

from pipeline.config import SPACES, load_config
from pipeline.records import Hyperparameters
from pipeline.search.sampling import sample_trials

DRAWS = 2000
EXTREME = """
name: extreme
data: {source: digits, image_size: 16, test_size: 0.2}
model: {backbone: torchvision, name: resnet18}
search: {space: extreme-grid}
"""


@pytest.fixture(scope="module")
def drawn():
    trials = sample_trials(search_config(num_trials=DRAWS), seed=0)
    return {name: [getattr(trial.hyper, name) for trial in trials] for name in Hyperparameters.model_fields}


def follows(values, distribution):
    return stats.kstest(values, distribution.cdf).pvalue > 0.001


def test_a_larger_sweep_begins_with_the_trials_of_a_smaller_one():
    small, large = (sample_trials(search_config(num_trials=n), seed=3) for n in (5, 20))
    assert large[:5] == small
    assert [trial.index for trial in large] == list(range(20))


def test_the_seed_decides():
    one, same, other = (sample_trials(search_config(num_trials=5), seed=seed) for seed in (3, 3, 4))
    assert one == same
    assert all(a.hyper != b.hyper for a, b in zip(one, other, strict=True))


def test_trials_have_seeds_of_their_own(drawn):
    assert len(set(drawn["seed"])) == DRAWS


@pytest.mark.parametrize(
    ("name", "distribution"),
    [
        ("lr", {"loguniform": [1e-4, 1e-2]}),
        ("epochs", 3),
        ("mixup", {"uniform": [0, 0.9], "probability": 0.9}),
        ("batch_size", {"choice": [32, 64]}),
        ("label_smoothing", 0),
    ],
)
def test_another_distribution_leaves_the_draws_of_the_others(name, distribution):
    plain = sample_trials(search_config(num_trials=30), seed=1)
    changed = sample_trials(search_config(num_trials=30, distributions={name: distribution}), seed=1)
    for one, other in zip(plain, changed, strict=True):
        assert one.hyper.model_dump(exclude={name}) == other.hyper.model_dump(exclude={name})
    assert any(getattr(a.hyper, name) != getattr(b.hyper, name) for a, b in zip(plain, changed, strict=True))


def test_random_space_learning_rate_and_decay_are_ten_to_minus_u(drawn):
    # J.2.1: learning rate 10^-U(4, 6), weight decay 10^-U(0.2, 4).
    assert follows(-np.log10(drawn["lr"]), stats.uniform(4, 2))
    assert follows(-np.log10(drawn["weight_decay"]), stats.uniform(0.2, 3.8))


@pytest.mark.parametrize(("name", "largest"), [("label_smoothing", 0.25), ("mixup", 0.9)])
def test_random_space_smoothing_and_mixup_are_off_half_the_time(drawn, name, largest):
    on = [value for value in drawn[name] if value]
    assert len(on) / DRAWS == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / DRAWS))
    assert follows(on, stats.uniform(0, largest))


def test_random_space_smoothing_and_mixup_are_independent(drawn):
    both = sum(bool(a) and bool(b) for a, b in zip(drawn["label_smoothing"], drawn["mixup"], strict=True))
    assert both / DRAWS == pytest.approx(0.25, abs=0.04)


def test_random_space_augmentation(drawn):
    minimal = [augmentation == "minimal" for augmentation in drawn["augmentation"]]
    assert sum(minimal) / DRAWS == pytest.approx(1 / 3, abs=0.045)
    for name, values in (("randaugment_m", range(21)), ("randaugment_n", range(3))):
        assert {value for value, off in zip(drawn[name], minimal, strict=True) if off} == {0}
        assert {value for value, off in zip(drawn[name], minimal, strict=True) if not off} == set(values)


def test_random_space_epochs_are_four_to_sixteen_inclusive(drawn):
    counts = {epochs: drawn["epochs"].count(epochs) for epochs in drawn["epochs"]}
    assert set(counts) == set(range(4, 17))
    assert stats.chisquare(list(counts.values())).pvalue > 0.001
    assert set(drawn["batch_size"]) == {512}


def test_vit_l_14_space_is_the_grid_of_the_mehl_soup_paper():
    trials = sample_trials(search_config(space="vit-l-14", num_trials=300), seed=0)
    assert {trial.hyper.lr for trial in trials} == {1e-6, 3e-6, 5e-6, 1e-5, 2e-5, 3e-5}
    assert {trial.hyper.weight_decay for trial in trials} == {0, 0.001, 0.003, 0.005, 0.01, 0.03}
    assert {(t.hyper.epochs, t.hyper.batch_size, t.hyper.mixup, t.hyper.augmentation) for t in trials} == {
        (10, 128, 0.0, "minimal")
    }


def combination(trial):
    return trial.hyper.lr, trial.hyper.augmentation, trial.hyper.mixup


def test_standard_grid_is_every_combination_with_two_seeds():
    trials = sample_trials(search_config(space="standard-grid"), seed=0)
    once, again = ({combination(trial) for trial in half} for half in (trials[:24], trials[24:]))
    assert len(trials) == 48
    assert (
        once == again == set(itertools.product([3e-5, 2e-5, 1e-5, 3e-6], ["minimal", "medium", "strong"], [0.0, 0.5]))
    )
    assert len({trial.hyper.seed for trial in trials}) == 48
    assert {(trial.hyper.epochs, trial.hyper.batch_size) for trial in trials} == {(10, 512)}
    strengths = {(t.hyper.augmentation, t.hyper.randaugment_m, t.hyper.randaugment_n) for t in trials}
    assert strengths == {("minimal", 0, 0), ("medium", 0, 0), ("strong", 15, 2)}


def test_a_grid_comes_in_another_order_for_each_seed_and_pass_and_a_smaller_sweep_is_its_beginning():
    config = search_config(space="standard-grid")
    trials = sample_trials(config, seed=0)
    other = sample_trials(config, seed=1)
    orders = {tuple(map(combination, part)) for part in (trials[:24], trials[24:], other[:24])}
    assert len(orders) == 3
    assert sample_trials(search_config(space="standard-grid", num_trials=7), seed=0) == trials[:7]


def test_extreme_grid_has_the_initialization_in_it(write_config, known):
    config = load_config(write_config(EXTREME), [], known)
    trials = sample_trials(config.search, seed=0)
    assert len({combination(trial) for trial in trials}) == len(trials) == 48
    assert {1e-7, 3e-4} <= {trial.hyper.lr for trial in trials}
    assert config.soup.include_initialization
    assert not load_config(
        write_config(EXTREME), ["soup.include_initialization=false"], known
    ).soup.include_initialization
    assert not load_config(write_config(EXTREME), ["search.space=random"], known).soup.include_initialization


def test_a_users_own_grid_multiplies_with_random_draws():
    grids = {"lr": {"grid": [1e-4, 1e-3]}, "epochs": {"grid": [1, 2, 3]}}
    trials = sample_trials(search_config(num_trials=12, distributions=grids), seed=0)
    assert {(t.hyper.lr, t.hyper.epochs) for t in trials[:6]} == set(itertools.product([1e-4, 1e-3], [1, 2, 3]))
    assert len({trial.hyper.weight_decay for trial in trials}) == 12


def test_what_a_space_does_not_draw_has_its_default():
    for name in SPACES:
        for trial in sample_trials(search_config(space=name, num_trials=2), seed=0):
            assert trial.hyper.given.keys() == Hyperparameters.model_fields.keys()
    assert SPACES["text"].distributions.keys() < Hyperparameters.model_fields.keys()


def test_text_space_is_that_of_the_paper():
    # J.5: log-uniform over [1e-6, 1e-3], batches of 8 to 64, 2, 3 or 5 epochs, no decay, a straight line to zero.
    trials = sample_trials(search_config(space="text", num_trials=300), seed=0)
    assert follows(np.log10([trial.hyper.lr for trial in trials]), stats.uniform(-6, 3))
    assert {trial.hyper.batch_size for trial in trials} == {8, 16, 32, 64}
    assert {trial.hyper.epochs for trial in trials} == {2, 3, 5}
    assert {(t.hyper.weight_decay, t.hyper.label_smoothing, t.hyper.schedule) for t in trials} == {(0, 0, "linear")}
    defaults = search_config(space="text")
    assert (defaults.num_trials, defaults.warmup_fraction, defaults.gradient_clip) == (32, 0, 1)
