"""What every line of KINDS has to keep."""

import numpy as np
import pytest
from data_samples import data_config, encoded, flat_image
from text_samples import write_tokenizer

from pipeline.data import KINDS
from pipeline.testing import check_kind

SAMPLES = {
    "images": (
        {"source": "digits", "image_size": 8, "test_size": 10},
        [encoded(flat_image(7)), encoded(flat_image(200), "BMP"), np.zeros((9, 12, 3), dtype=np.uint8)],
        {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]},
    ),
    "text": (
        {"source": "text_table", "train": "/a.csv", "test": "/b.csv", "max_length": 6},
        [("the film",), ("a very good play",), ("so bad", "not so")],
        {},
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_keeps_its_contract(name, tmp_path, tmp_path_factory):
    settings, values, constants = SAMPLES[name]
    if "tokenizer" in KINDS[name].needs:
        settings = {**settings, "tokenizer": str(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))}
    check_kind(KINDS[name], data_config(**settings), values, constants, tmp_path)


def test_what_a_kind_needs_every_source_of_it_needs():
    with pytest.raises(ValueError, match=r"source 'digits' needs data\.image_size"):
        data_config(source="digits", test_size=10)
