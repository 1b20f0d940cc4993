import pytest
from pydantic import ValidationError
from samples import ingredient

from pipeline.records import (
    CoefficientRecord,
    CostRecord,
    IngredientRecord,
    PredictionRecord,
    SoupRecord,
    cost_by_device,
    cost_unit,
    costs,
    cumulative_gpu_hours,
)

# As in the design, word for word: other programs read these tables.
COLUMNS = {
    IngredientRecord: "trial_index status reason val_accuracy select_accuracy test_accuracy gpu_hours attempts "
    "images_seen peak_memory_bytes device sha256 theta0_sha256 path model_version cpu_core_hours "
    "lr weight_decay epochs batch_size "
    "label_smoothing mixup augmentation randaugment_m randaugment_n seed cutmix ema_decay schedule",
    SoupRecord: "method num_ingredients num_selected val_accuracy select_accuracy test_accuracy gpu_hours "
    "construction_seconds epochs peak_memory_bytes peak_memory_kind peak_reserved_bytes epochs_of_trials block_size "
    "outer_iterations inner_iterations",
    CostRecord: "method num_ingredients gpu_hours val_accuracy select_accuracy test_accuracy order_seed predictions "
    "gain_low gain_high select_gain_low select_gain_high cpu_core_hours block_size",
    CoefficientRecord: "trial_index layer coefficient",
    PredictionRecord: "split image_index label prediction",
}


@pytest.mark.parametrize("kind", COLUMNS, ids=lambda kind: kind.__name__)
def test_columns_are_those_of_the_design_in_order(kind):
    assert [*kind.model_fields, *kind.extra_columns] == COLUMNS[kind].split()


def test_cost_counts_failed_trials_up_to_the_last_finished_one():
    rows = [
        ingredient(0, gpu_hours=1),
        ingredient(1, gpu_hours=10, status="failed", val_accuracy=None),
        ingredient(2, gpu_hours=100),
        ingredient(3, gpu_hours=1000, status="rejected", val_accuracy=None),
        ingredient(4, gpu_hours=10000),
    ]
    assert [cumulative_gpu_hours(rows, n) for n in (1, 2, 3)] == [1, 111, 11111]
    assert cumulative_gpu_hours(rows[::-1], 2) == 11100
    with pytest.raises(ValueError, match="only 3 trials finished, 4 asked for"):
        cumulative_gpu_hours(rows, 4)


def test_gpu_hours_and_core_hours_are_never_added():
    gpu, cpu = ingredient(0, device="NVIDIA H200", gpu_hours=2), ingredient(1, device="cpu", gpu_hours=30)
    both = ingredient(2, device="cpu and NVIDIA H200", gpu_hours=4, cpu_core_hours=50)
    imported = ingredient(3, device="imported", gpu_hours=0, cpu_core_hours=7)
    assert costs([gpu]) == {"GPU hours": 2}
    assert costs([cpu]) == {"CPU core hours": 30}
    assert costs([imported]) == {"CPU core hours": 7}
    assert costs([gpu, cpu, both]) == {"GPU hours": 6, "CPU core hours": 80}
    assert [cost_unit(rows) for rows in ([], [gpu], [cpu], [cpu, gpu])] == [
        "GPU hours", "GPU hours", "CPU core hours", "GPU hours",
    ]  # fmt: skip
    assert [cumulative_gpu_hours([cpu, gpu, both], n) for n in (1, 2, 3)] == [0, 2, 6]
    assert cost_by_device([gpu, cpu]) == {"NVIDIA H200": 2}


@pytest.mark.parametrize(
    "wrong",
    [{"status": "lost"}, {"val_accuracy": float("nan")}, {"sha256": 1}, {"own": [1]}, {"own": float("inf")}],
    ids=str,
)
def test_rows_are_validated(wrong):
    with pytest.raises(ValidationError):
        ingredient(0, **wrong)


def test_a_record_of_fixed_columns_takes_no_others():
    with pytest.raises(ValidationError):
        CoefficientRecord(trial_index=0, layer="model", coefficient=1.0, unknown=1)


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"epochs": 0}, {"augmentation": "wild"}, {"ema_decay": 1}], ids=str)
def test_known_hyperparameters_are_checked_in_a_row_too(wrong):
    with pytest.raises(ValidationError):
        ingredient(0).model_validate({**ingredient(0).model_dump(), **wrong})
