"""What every line of KINDS has to keep."""

import numpy as np
import pytest
from data_samples import data_config, encoded, flat_image

from pipeline.data import KINDS
from pipeline.testing import check_kind

SAMPLES = {
    "images": (
        {"source": "digits", "image_size": 8, "test_size": 10},
        [encoded(flat_image(7)), encoded(flat_image(200), "BMP"), np.zeros((9, 12, 3), dtype=np.uint8)],
        {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]},
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_keeps_its_contract(name, tmp_path):
    settings, values, constants = SAMPLES[name]
    check_kind(KINDS[name], data_config(**settings), values, constants, tmp_path)


def test_what_a_kind_needs_every_source_of_it_needs():
    with pytest.raises(ValueError, match=r"source 'digits' needs data\.image_size"):
        data_config(source="digits", test_size=10)
