"""What every line of KINDS has to keep."""

import base64
import io

import numpy as np
import pytest
from data_samples import data_config, encoded, flat_image
from PIL import Image
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


def test_texts_are_shown_as_they_were_read_and_long_ones_cut(tmp_path):
    kind = KINDS["text"]
    data = data_config(
        source="text_table", train="/a.csv", test="/b.csv", max_length=600, tokenizer=str(write_tokenizer(tmp_path))
    )
    encode = kind.encoder(data)
    rows = np.stack(
        [encode(value)[0] for value in (("A very good film .",), ("so bad", "not so"), ("very " * 500,), ("",))]
    )
    one, two, long, empty = (shown.content for shown in kind.show(data, rows))
    assert one == "a very good film."
    assert two == "so bad | not so"
    assert len(long) == 400
    assert long.endswith("…")
    assert empty == ""


@pytest.mark.parametrize(("size", "side"), [(8, 64), (24, 48), (64, 64), (224, 64)])
def test_images_are_shown_small(size, side):
    data = data_config(source="digits", image_size=size, test_size=10)
    images = np.zeros((2, 3, size, size), dtype=np.uint8)
    images[1, 0, : size // 2] = 255  # red above
    _, shown = KINDS["images"].show(data, images)
    with Image.open(io.BytesIO(base64.b64decode(shown.content))) as picture:
        pixels = np.asarray(picture)
    assert shown.media_type == "image/png"
    assert pixels.shape == (side, side, 3)
    assert pixels[1, 1].tolist() == [255, 0, 0]
    assert pixels[-2, 1].tolist() == [0, 0, 0]


def test_what_a_kind_needs_every_source_of_it_needs():
    with pytest.raises(ValueError, match=r"source 'digits' needs data\.image_size"):
        data_config(source="digits", test_size=10)
