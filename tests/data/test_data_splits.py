import hashlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
from data_samples import data_config

from pipeline.data import ExampleSet
from pipeline.data.splits import cut
from pipeline.errors import DataError


def config(**sizes):
    return data_config(source="digits", image_size=8, **sizes)


def with_test_set(**sizes):
    return data_config(source="parquet", train="/a", test="/b", image_size=8, **sizes)


def sizes_of(splits):
    return {name: len(rows) for name, rows in splits.items()}


def test_splits_of_the_digits_demo():
    settings = config(pretrain_size=300, train_size=500, validation_size=500, test_size=497)
    splits = cut(settings, 1797, None, seed=0)
    assert sizes_of(splits) == {"pretrain": 300, "train": 500, "fit": 400, "select": 100, "test": 497}
    rows = np.concatenate(list(splits.values()))
    assert sorted(rows.tolist()) == list(range(1797))


def test_fractions_are_of_the_whole_set_and_train_takes_the_rest():
    splits = cut(config(test_size=0.25, validation_size=0.1, select_fraction=0.5), 200, None, seed=1)
    assert sizes_of(splits) == {"test": 50, "select": 10, "fit": 10, "train": 130}


def test_a_test_set_is_used_whole_and_in_order_or_up_to_a_limit():
    assert cut(with_test_set(), 100, 40, seed=0)["test"].tolist() == list(range(40))
    limited = cut(with_test_set(test_size=10), 100, 40, seed=0)["test"]
    assert len(set(limited.tolist())) == 10
    assert sizes_of(cut(with_test_set(test_size=50), 100, 40, seed=0))["test"] == 40


def test_seed_decides_and_a_smaller_train_set_leaves_the_other_splits():
    first, again = (cut(config(test_size=20), 100, None, seed=3) for _ in range(2))
    other = cut(config(test_size=20), 100, None, seed=4)
    small = cut(config(test_size=20, train_size=10), 100, None, seed=3)
    for name, rows in first.items():
        assert rows.tolist() == again[name].tolist()
        assert rows.tolist() != other[name].tolist()
        assert rows.tolist()[: len(small[name])] == small[name].tolist()
    assert len(small["train"]) == 10


def test_without_a_select_fraction_select_is_empty():
    assert sizes_of(cut(with_test_set(select_fraction=0), 100, 10, seed=0)) == {
        "select": 0,
        "fit": 10,
        "train": 90,
        "test": 10,
    }


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "data.test_size: source 'digits' has no test set"),
        ({"test_size": 90, "train_size": 20}, "more than the 100 images .*train 20, fit 8, select 2, test 90"),
        (
            {"test_size": 95, "validation_size": 10},
            "train -5.*; lower data.test_size .95. or data.validation_size",
        ),
        (
            {"test_size": 90, "validation_size": 10},
            "split 'train' is empty .*train 0, fit 8.*lower data.test_size",
        ),
        ({"test_size": 10, "validation_size": 0.001}, "split 'select' is empty.*raise data.validation_size"),
        ({"test_size": 10, "validation_size": 0.001, "select_fraction": 0}, "split 'fit' is empty"),
        ({"test_size": 0.001}, "split 'test' is empty"),
        ({"test_size": 10, "pretrain_size": 0.001}, "split 'pretrain' is empty"),
    ],
)
def test_sizes_that_do_not_fit_name_the_split_and_the_sizes(sizes, message):
    with pytest.raises(DataError, match=message) as caught:
        cut(config(**sizes), 100, None, seed=0)
    assert "\n" not in str(caught.value)


def test_tensors_share_the_memory_of_read_only_arrays_without_a_warning():
    images, labels = np.zeros((2, 3, 4, 4), dtype=np.uint8), np.arange(2)
    images.setflags(write=False)
    labels.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensors = ExampleSet(images, labels).tensors()
    assert [tensor.data_ptr() for tensor in tensors] == [images.ctypes.data, labels.ctypes.data]


def test_importing_the_package_does_not_import_ray():
    code = "import sys, pipeline.data; print(any(name.partition('.')[0] == 'ray' for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_records_hash_the_sorted_source_indices():
    from pipeline.data.splits import _record

    record = _record("fit", np.array([5, 2, 300]), None)
    expected = hashlib.sha256(b"".join(row.to_bytes(8, "little") for row in (2, 5, 300))).hexdigest()
    assert (record.name, record.size, record.indices_sha256) == ("fit", 3, expected)
