import pytest
from samples import hyperparameters

from pipeline.records.hyperparameters import compared, in_words, named, shown


def trial(**values):
    return hyperparameters(**values).model_dump() | {"adapter_rank": values.get("adapter_rank", 4)}


def test_what_differs_is_told_apart_from_what_is_shared():
    comparison = compared([trial(lr=1e-4), trial(lr=1.001e-4, ema_decay=0.9), trial(lr=1e-4)])
    assert comparison.differing == ["lr", "ema_decay"]
    assert comparison.shared[:2] == ["weight_decay", "epochs"]
    assert comparison.shared[-1] == "adapter_rank"


def test_what_a_trial_lacks_differs_and_what_is_known_of_none_is_left_out():
    assert compared([{"lr": None, "rank": 4}, {"lr": None}]) == (["rank"], [])
    assert compared([]) == ([], [])


def test_the_magnitude_of_randaugment_belongs_to_the_augmentation():
    light, strong = (trial(augmentation="randaugment", randaugment_m=m, randaugment_n=2) for m in (3, 15))
    assert compared([light, strong]).differing == ["augmentation"]
    assert shown(light)["augmentation"] == "RandAugment n=2 m=3"
    assert shown(trial())["augmentation"] == "minimal"
    assert not {"randaugment_m", "randaugment_n"} & (shown(light).keys() | shown(trial()).keys())


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.2e-5, "3.2e-05"), (0.1234, "0.123"), (0.0, "0"), (64, "64"), (True, "True"), ("wide", "wide"), (None, "-")],
)
def test_values_as_text(value, text):
    assert shown({"any": value}) == {"any": text}


def test_in_a_sentence():
    assert [in_words(name) for name in ("lr", "batch_size", "mixup", "cutmix", "ema_decay", "adapter_rank")] == [
        "learning rate", "batch size", "mixup", "CutMix", "EMA decay", "adapter rank",
    ]  # fmt: skip
    assert named(trial(), ["lr", "adapter_rank"]) == "learning rate 0.003, adapter rank 4"
