import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from samples import ingredient

from pipeline.errors import DataError
from pipeline.records import (
    CoefficientRecord,
    CostRecord,
    Hyperparameters,
    IngredientRecord,
    PredictionRecord,
    RunRecord,
    SoupRecord,
)
from pipeline.records.tables import read_table, write_table


def cost(n, **changes):
    values = {"method": "greedy", "num_ingredients": n, "gpu_hours": 0.5 * n, "val_accuracy": 0.5}
    return CostRecord(**values | {"select_accuracy": None, "test_accuracy": 0.4} | changes)


def test_rows_come_back_in_order_and_unchanged(tmp_path):
    rows = [cost(8), cost(4, order_seed=3, select_accuracy=0.25)]
    path = tmp_path / "made" / "cost_accuracy.parquet"
    write_table(path, rows, CostRecord)
    assert read_table(path, CostRecord) == rows
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", [IngredientRecord, SoupRecord, CostRecord, CoefficientRecord, PredictionRecord])
def test_an_empty_table_has_all_columns_with_their_types(tmp_path, kind):
    path = tmp_path / "empty.parquet"
    write_table(path, [], kind)
    assert read_table(path, kind) == []
    schema = pq.read_schema(path)
    assert schema.names == [*kind.model_fields, *kind.extra_columns]
    assert pa.null() not in schema.types


def test_columns_of_nothing_but_none_keep_their_type(tmp_path):
    path = tmp_path / "cost.parquet"
    write_table(path, [cost(4)], CostRecord)
    schema = pq.read_schema(path)
    assert schema.field("order_seed").type == pa.int64()
    assert schema.field("select_accuracy").type == pa.float64()
    assert not schema.field("gpu_hours").nullable


def test_ingredients_have_outcome_columns_before_hyperparameters(tmp_path):
    write_table(tmp_path / "ingredients.parquet", [], IngredientRecord)
    names = pq.read_schema(tmp_path / "ingredients.parquet").names
    assert names[:3] == ["trial_index", "status", "reason"]
    assert names[-len(Hyperparameters.model_fields) :] == list(Hyperparameters.model_fields)


def test_hyperparameters_that_no_trial_has_have_no_column(tmp_path):
    row = ingredient(0).model_dump()
    rows = [IngredientRecord(**row | {"augmentation": None, "mixup": None}), IngredientRecord(**row | {"mixup": None})]
    write_table(tmp_path / "ingredients.parquet", rows, IngredientRecord)
    names = pq.read_schema(tmp_path / "ingredients.parquet").names
    assert "mixup" not in names
    assert "augmentation" in names
    assert read_table(tmp_path / "ingredients.parquet", IngredientRecord) == rows


def test_hyperparameters_of_a_trainers_own_are_read_as_they_stand(tmp_path):
    own = {"momentum": 0.9, "layers": 3, "frozen": True, "rule": "sam", "unknown": None}
    rows = [ingredient(0, **own), ingredient(1, **own | {"momentum": 1, "layers": None})]
    path = tmp_path / "ingredients.parquet"
    write_table(path, rows, IngredientRecord)
    read = read_table(path, IngredientRecord)
    assert [row.hyperparameters for row in read] == [row.hyperparameters for row in rows]
    assert list(read[0].hyperparameters) == [*Hyperparameters.model_fields, *own]
    types = [pq.read_schema(path).field(name).type for name in own]
    assert types == [pa.float64(), pa.int64(), pa.bool_(), pa.string(), pa.string()]


def test_a_failed_write_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "cost.parquet"
    write_table(path, [cost(4)], CostRecord)

    def fail(table, file):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("pipeline.records.tables.pq.write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(path, [], CostRecord)
    assert read_table(path, CostRecord) == [cost(4)]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_rows_of_another_kind_are_refused(tmp_path):
    with pytest.raises(TypeError, match="a table of SoupRecord cannot hold CostRecord"):
        write_table(tmp_path / "soups.parquet", [cost(4)], SoupRecord)
    with pytest.raises(TypeError, match=r"field 'versions' .* fits no column"):
        write_table(tmp_path / "run.parquet", [], RunRecord)


def test_reading_a_missing_file_or_another_table_says_so(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.parquet: cannot be read as a table of CostRecord"):
        read_table(tmp_path / "nothing.parquet", CostRecord)
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"text\.parquet: cannot be read"):
        read_table(tmp_path / "text.parquet", CostRecord)
    write_table(tmp_path / "cost.parquet", [cost(4)], CostRecord)
    with pytest.raises(DataError, match=r"cost\.parquet: is no table of CoefficientRecord: trial_index"):
        read_table(tmp_path / "cost.parquet", CoefficientRecord)


def test_accuracies_on_shifts_are_columns_of_their_own(tmp_path):
    soups = [
        soup("greedy", sketch_accuracy=0.5, rendition_accuracy=0.25),
        soup("mehl", sketch_accuracy=0.75, rendition_accuracy=1.0),
    ]
    write_table(tmp_path / "soups.parquet", soups, SoupRecord)
    assert pq.read_schema(tmp_path / "soups.parquet").names[-2:] == ["sketch_accuracy", "rendition_accuracy"]
    back = read_table(tmp_path / "soups.parquet", SoupRecord)
    assert back == soups
    assert back[0].shift_accuracies == {"sketch": 0.5, "rendition": 0.25}
    with pytest.raises(ValidationError, match="unknown columns: sketch"):
        soup("greedy", sketch=0.5)


def soup(method, **values):
    return SoupRecord(
        method=method, num_ingredients=2, num_selected=2, val_accuracy=0.5, select_accuracy=None, test_accuracy=0.5,
        gpu_hours=1, construction_seconds=1, epochs=1, peak_memory_bytes=1, peak_memory_kind="anon", **values,
    )  # fmt: skip
