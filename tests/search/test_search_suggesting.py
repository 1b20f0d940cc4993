"""What Optuna suggests: within the space, from what earlier trials came to, the same for the same rows."""

import pytest
import ray
import torch
from samples import digit_splits, hyperparameters, ingredient, search_config
from search_samples import FolderRecorder, build

from pipeline.records import IngredientRecord
from pipeline.search.sampling import Trial, sample_trials
from pipeline.search.storage import Storage
from pipeline.search.suggesting import suggested
from pipeline.search.trial import TrialContext
from pipeline.search.tuner import run_trials
from pipeline.weights import unique_state

SPACE = {
    "lr": {"loguniform": [1e-5, 1e-1]},
    "weight_decay": {"uniform": [0.0, 0.5]},
    "epochs": {"randint": [2, 5]},
    "batch_size": {"choice": [16, 32, 64]},
    "mixup": {"uniform": [0.1, 0.9], "probability": 0.5},
    "label_smoothing": 0.05,
    "augmentation": {"choice": ["minimal", "strong"]},
}
SETTINGS = search_config(algorithm="optuna", num_trials=3, distributions=SPACE)


def ended(trial, val):
    measured = ingredient(trial.index, val_accuracy=val).model_dump(exclude=set(type(trial.hyper).model_fields))
    return IngredientRecord(**measured, **trial.hyper.model_dump())


def sweep(good, count=25):
    """Rows of trials of which those are better whose learning rate is nearer to ``good``, by decades."""
    trials = sample_trials(SETTINGS.model_copy(update={"num_trials": count}), seed=0)
    distances = [abs(torch.tensor(trial.hyper.lr / good).log10().item()) for trial in trials]
    return [ended(trial, max(0.0, 0.9 - distance / 10)) for trial, distance in zip(trials, distances, strict=True)]


def test_what_is_suggested_is_drawn_from_the_space_and_validated():
    rows = sweep(1e-3)
    found = [suggested(SETTINGS, Trial(n, hyperparameters(seed=n, label_smoothing=0.05)), rows) for n in range(20)]
    assert {hyper.batch_size for hyper in found} <= {16, 32, 64}
    assert {hyper.epochs for hyper in found} <= {2, 3, 4}
    assert all(1e-5 <= hyper.lr <= 1e-1 for hyper in found)
    assert {hyper.mixup == 0 or 0.1 <= hyper.mixup <= 0.9 for hyper in found} == {True}
    assert {hyper.label_smoothing for hyper in found} == {0.05}
    assert [hyper.seed for hyper in found] == list(range(20))
    assert {(hyper.augmentation, hyper.randaugment_m) for hyper in found} <= {("minimal", 0), ("strong", 15)}


@pytest.mark.parametrize("good", [1e-4, 1e-2])
def test_suggestions_come_nearer_to_what_was_good(good):
    rates = [suggested(SETTINGS, Trial(n, hyperparameters(seed=n)), sweep(good)).lr for n in range(20)]
    assert good / 10 < torch.tensor(rates).log().median().exp().item() < good * 10


def test_the_same_rows_in_any_order_and_what_failed_give_the_same_suggestion():
    trial, rows = Trial(30, hyperparameters(seed=5)), sweep(1e-3)
    failed = ingredient(40, status="failed", val_accuracy=None)
    assert suggested(SETTINGS, trial, rows) == suggested(SETTINGS, trial, [failed, *reversed(rows)])
    assert suggested(SETTINGS, trial, rows) != suggested(SETTINGS, trial, rows[:12])


def test_a_trial_runs_with_what_was_suggested_before_it_began_and_keeps_it(session_ray, tmp_path):
    recorder = FolderRecorder(tmp_path / "records")
    recorder.folder.mkdir()
    context = TrialContext(
        name="optuna", trials=tuple(sample_trials(SETTINGS, seed=0)), build_model=build,
        splits=ray.put(digit_splits(train=64)), theta0=ray.put(unique_state(build())), theta0_sha256="f" * 64,
        settings=SETTINGS, use_gpu=False, reserved=1.0, storage=Storage(str(tmp_path / "trials")),
        experiments=tmp_path / "tune", recorder=recorder,
    )  # fmt: skip
    begun = context.suggest(2, sweep(1e-3))  # of a call that was killed
    assert context.suggest(2, []) == begun == context.trial(2).hyper
    run_trials(context, [], "sweep")
    rows = {row.trial_index: row for row in recorder.rows()}
    assert {row.status for row in rows.values()} == {"finished"}
    assert rows[2].hyperparameters["lr"] == begun.lr
    assert rows[2].images_seen == begun.epochs * 64
    for index in (0, 1):
        drawn = suggested(SETTINGS, context.trials[index], [])  # none of the others had ended
        assert rows[index].hyperparameters["lr"] in (drawn.lr, suggested(SETTINGS, context.trials[1], [rows[0]]).lr)
