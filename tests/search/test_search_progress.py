"""The table of a sweep that gets on: which columns it has, and that they stand under their headings."""

import random

from samples import hyperparameters, ingredient

from pipeline.records import Hyperparameters, IngredientRecord
from pipeline.search.progress_table import ProgressTable


class WithAdapter(Hyperparameters):
    """As of a trainer from elsewhere."""

    adapter_rank: int
    prompt: str


def a_table(*trials, **outcome):
    """The head and the rows of the table of these trials, each with this outcome."""
    table = ProgressTable([trial.model_dump() for trial in trials])
    measured = ingredient(0, **outcome).model_dump(exclude=set(Hyperparameters.model_fields))
    rows = [IngredientRecord(**measured, **trial.model_dump()) for trial in trials]
    return table.head("CPU core hours"), [table.row(row, 0.95, f"1/{len(trials)}", "119 s") for row in rows]


def test_hyperparameters_that_differ_are_columns_and_the_others_are_named_once():
    trials = [hyperparameters(lr=lr, cutmix=cutmix) for lr, cutmix in ((1e-4, 0), (3.21e-5, 1))]
    head, rows = a_table(*trials, gpu_hours=0.0001234)
    assert head == [
        "search: the same in all trials: weight decay 0.01, epochs 2, batch size 32, label smoothing 0, mixup 0,",
        "        augmentation minimal, seed 7, EMA decay 0, schedule cosine",
        "       learning                                core",
        "trial      rate  CutMix     val %  best %     hours  done     left",
    ]
    assert rows[1] == "    0   3.2e-05       1     90.00   95.00  0.000123   1/2    119 s"


def test_the_augmentation_is_one_short_column():
    trials = [hyperparameters(augmentation="randaugment", randaugment_m=m, randaugment_n=2) for m in (9, 15)]
    head, rows = a_table(hyperparameters(), *trials)
    assert head[-1].split()[:2] == ["trial", "augmentation"]
    assert [row[7:19].strip() for row in rows] == ["minimal", "RA n=2 m=9", "RA n=2 m=15"]


def test_a_trial_that_gave_no_ingredient_says_so():
    _, (row,) = a_table(hyperparameters(), status="rejected", val_accuracy=None)
    assert row.split()[:3] == ["0", "rejected", "95.00"]


def random_trials(kind=Hyperparameters, **own):
    """Such that all differ that do in the default search space."""
    draw = random.Random(0)
    return [
        kind(
            **hyperparameters(
                lr=10 ** draw.uniform(-6, -4), weight_decay=10 ** draw.uniform(-4, -0.2), epochs=draw.randrange(4, 17),
                label_smoothing=draw.uniform(0, 0.25), mixup=draw.uniform(0, 0.9), seed=draw.randrange(2**31),
                augmentation="randaugment", randaugment_m=draw.randrange(21), randaugment_n=draw.randrange(3),
            ).model_dump(),
            **{name: draw.choice(values) for name, values in own.items()},
        )
        for _ in range(72)
    ]  # fmt: skip


def test_the_default_space_has_room_for_all_but_the_seed():
    head, rows = a_table(*random_trials())
    assert head[-1].split()[:7] == ["trial", "rate", "decay", "epochs", "smoothing", "mixup", "augmentation"]
    assert {len(line) for line in [head[-1], *rows]} == {len(rows[0])}
    assert len(rows[0]) <= 112
    assert "seed" not in " ".join(head)


def test_what_finds_no_room_is_named():
    head, rows = a_table(*random_trials(WithAdapter, adapter_rank=[4, 8], prompt=["a photo of a", "an image of a"]))
    assert "search: not in this table for want of room: adapter rank, prompt" in head
    assert len(rows[0]) <= 112
    narrow = [WithAdapter(**hyperparameters().model_dump(), adapter_rank=rank, prompt="a") for rank in (4, 8)]
    head, rows = a_table(*narrow)
    assert [line.split()[1] for line in rows] == ["4", "8"]
    assert head[-2].split()[0] == "adapter"
    assert "prompt a" in head[1]
