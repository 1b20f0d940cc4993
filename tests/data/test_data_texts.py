"""Tables of texts, tokenised once into the store as transformers tokenises them."""

import json
import logging
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from data_samples import data_config
from text_samples import WORDS, write_table, write_tokenizer
from transformers import AutoTokenizer

from pipeline.data import KINDS, ExampleSet, load_splits, prepare
from pipeline.data.tokens import SEGMENT_BIT, Reader
from pipeline.errors import DataError
from pipeline.soups.feeding import Rows

pytestmark = pytest.mark.usefixtures("local_ray")

TEXTS = ["the film is good.", "Bad film", "so very very bad", "a good play", "12", "not good, not bad"]
LABELS = [1, 0, 0, 1, 1, 0]
ALL_FIT = {"validation_size": 2, "select_fraction": 0}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def config(tokenizer, tmp_path):
    """Settings of two tables with the columns that are given; both are the same unless ``test`` is given too."""

    def made(form="parquet", test=None, settings=None, **columns):
        columns = columns or {"text": TEXTS, "label": LABELS}
        train = write_table(tmp_path / f"train.{form}", **columns)
        test = write_table(tmp_path / f"test.{form}", **(test or columns))
        defaults = {"tokenizer": str(tokenizer), "max_length": 8, "store": tmp_path / "store", **ALL_FIT}
        return data_config(source="text_table", train=str(train), test=str(test), **{**defaults, **(settings or {})})

    return made


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "pipeline")
    return caplog


def expected(folder, *texts, length=8):
    """The rows as transformers' own tokenizer gives them: id + 1, the segment in the bits above, 0 is padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = tokenizer(*texts, truncation=True, max_length=length, padding="max_length", return_tensors="np")
    return (found["input_ids"] + 1 + (found["token_type_ids"] << SEGMENT_BIT)) * found["attention_mask"]


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv"])
def test_a_table_is_tokenised_as_transformers_does(config, tokenizer, form):
    splits = load_splits(config(form), seed=0)
    assert splits.kind == "text"
    assert splits.test.inputs.dtype == np.int32
    assert (splits.test.inputs == expected(tokenizer, TEXTS)).all()
    assert splits.test.labels.tolist() == LABELS
    assert {len(splits.train), len(splits.fit)} == {4, 2}


def test_two_texts_stand_in_one_row_with_their_segments(config, tokenizer):
    first, second = TEXTS[:3], ["a play", "very very very very good film", "not so"]
    data = config(sentence=first, other=second, label=[0, 1, 0],
                  settings={"text_column": "sentence", "text_pair_column": "other", "validation_size": 1})  # fmt: skip
    inputs = load_splits(data, seed=0).test.inputs
    assert (inputs == expected(tokenizer, first, second)).all()
    assert set((inputs >> SEGMENT_BIT).ravel().tolist()) == {0, 1}


def test_what_is_cut_off_is_counted_and_said(config, said):
    load_splits(config(settings={"max_length": 5}), seed=0)
    lengths = [7, 4, 6, 5, 3, 7]  # [CLS] and [SEP] with them; the comma is a token
    tokens, texts = sum(max(0, n - 5) for n in lengths), sum(n > 5 for n in lengths)
    assert f"{tokens} tokens of {texts} of 6 texts in test.parquet are beyond data.max_length and cut off" in said.text
    said.clear()
    load_splits(config(settings={"max_length": 8}), seed=0)
    assert "cut off" not in said.text


def test_names_of_classes_are_read_as_of_images(config):
    splits = load_splits(config("csv", text=TEXTS, label=["pos", "neg", "neg", "pos", "pos", "neg"]), seed=0)
    assert splits.class_names == ("neg", "pos")
    assert splits.test.labels.tolist() == LABELS


def test_class_labels_of_hugging_face(config):
    data = config()
    for path in (data.train, data.test):
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": {"names": ["bad", "good"]}}}})}
        pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)
    assert load_splits(data, seed=0).class_names == ("bad", "good")


def test_texts_of_digits_or_null_are_texts(config, tokenizer):
    texts = ["12", "NA", "null", "12"]
    splits = load_splits(config("csv", text=texts, label=[0, 1, 0, 1]), seed=0)
    assert (splits.test.inputs == expected(tokenizer, texts)).all()


def test_a_folder_of_several_forms_and_a_shift(config, tmp_path, tokenizer):
    folder = tmp_path / "parts"
    folder.mkdir()
    write_table(folder / "a.csv", text=TEXTS[:3], label=LABELS[:3])
    write_table(folder / "b.tsv", text=TEXTS[3:], label=LABELS[3:])
    (folder / "notes.md").write_text("ours")
    shift = write_table(tmp_path / "shift.tsv", text=["bad play"], label=[0])
    splits = load_splits(config(settings={"shifts": {"plays": str(shift)}, "test_size": 6}), seed=0)
    assert (splits.shifts["plays"].inputs == expected(tokenizer, ["bad play"])).all()
    several = config().model_copy(update={"test": folder})
    assert (load_splits(several, seed=0).test.inputs == expected(tokenizer, TEXTS)).all()


def test_another_tokenizer_or_length_is_another_store(config, tmp_path):
    data = config()
    first = prepare(data)
    assert prepare(data) == first
    assert prepare(data.model_copy(update={"max_length": 9})) != first
    other = write_tokenizer(tmp_path / "other", [*WORDS[1:], WORDS[0]])
    assert prepare(data.model_copy(update={"tokenizer": str(other)})) != first
    same = write_tokenizer(tmp_path / "same")
    assert prepare(data.model_copy(update={"tokenizer": str(same)})) == first, "the content counts, not the path"


def test_some_empty_texts_are_counted(config, said):
    load_splits(config(text=["", *TEXTS[1:-1], " "], label=LABELS), seed=0)
    assert "data.train: 2 of 6 texts of column 'text' are empty" in said.text


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"texts": TEXTS, "label": LABELS}, {}, "data.train: {train} has no column 'text'; set data.text_column, did you mean 'texts'?"),  # noqa: E501
        ({"text": LABELS, "label": LABELS}, {}, "data.train: column 'text' of {train} is int64; data.text_column must name a column of texts"),  # noqa: E501
        ({"text": TEXTS, "label": [0.5] * 6}, {}, "data.train: column 'label' of {train} is double; data.label_column must name a column of class numbers from 0, or names"),  # noqa: E501
        ({"text": [""] * 6, "label": LABELS}, {}, "data.train: all 6 texts of column 'text' are empty; name another column"),  # noqa: E501
        ({}, {"text_pair_column": "text_2"}, "data.train: {train} has no column 'text_2'; set data.text_pair_column, did you mean 'text'?"),  # noqa: E501
        ({}, {"max_length": 2}, "data.max_length: 2 leaves no room beside the 2 tokens that data.tokenizer puts around texts; raise it"),  # noqa: E501
        ({"text": TEXTS, "pair": TEXTS, "label": LABELS}, {"max_length": 3, "text_pair_column": "pair"}, "data.max_length: 3 leaves no room beside the 3 tokens"),  # noqa: E501
        ({}, {"tokenizer": "/no/such"}, "data.tokenizer: /no/such is no folder; "),
        ({"text": [None, *TEXTS[1:]], "label": LABELS}, {}, "source 'text_table': 1 of 6 texts cannot be used ({train}, row 0: no text); "),  # noqa: E501
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_in_a_line(config, tmp_path, columns, settings, message):
    with pytest.raises(DataError, match=f"^{re.escape(message.format(train=tmp_path / 'train.parquet'))}") as caught:
        load_splits(config(settings=settings, **columns), seed=0)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["text,text,label", "good,bad,1"], "{train} has 2 columns 'text'; name each column once"),
        (["text,label"], "{train} has no rows; name a file with texts"),
        (["text,label", "good,1,0"], "{train} cannot be read as a CSV file (CSV parse error: "),
    ],
)
def test_a_csv_file_that_is_none_is_told_in_a_line(config, tmp_path, lines, message):
    data = config("csv")
    (tmp_path / "train.csv").write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError, match=rf"^data\.train: {re.escape(message.format(train=tmp_path / 'train.csv'))}"):
        load_splits(data, seed=0)


def test_a_class_that_the_training_set_does_not_have(config, tmp_path):
    data = config(text=["good", "bad", "so"], label=["yes", "no", "no"], test={"text": ["good"], "label": ["nö"]})
    with pytest.raises(DataError, match=r"^data.test: 'nö' in row 0 of .*test.parquet is a class that the train"):
        load_splits(data, seed=0)


def test_a_folder_without_a_tokenizer_is_refused(config, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"^data\.tokenizer: .*empty cannot be loaded \(.*\); give a folder") as caught:
        load_splits(config(settings={"tokenizer": str(tmp_path / "empty")}), seed=0)
    assert len(str(caught.value).splitlines()) == 1


def test_a_served_reader_takes_texts_alone(config):
    from pipeline.data import KINDS

    reader = Reader(KINDS["text"].inputs(config()))
    assert reader({"text": TEXTS[0]}).shape == (8,)
    with pytest.raises(ValueError, match="cannot be read; give text as text"):
        reader({"text": 7})


def test_batches_of_an_epoch_are_of_texts_of_like_length():
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 21, 500)
    rows = np.where(np.arange(20) < lengths[:, None], np.arange(1, 501)[:, None], 0).astype(np.int32)  # their number
    texts = ExampleSet(rows, np.arange(1, 501), KINDS["text"].lengths(rows))
    epochs = [list(texts.epoch(16, seed)) for seed in (0, 0, 1)]
    for epoch in epochs:
        assert sorted(int(row[0]) for batch, _ in epoch for row in batch) == list(range(1, 501)), "every one once"
        assert all(torch.equal(batch[:, 0].long(), labels) for batch, labels in epoch)
        assert all(batch[:, -1].any() for batch, _ in epoch), "no longer than the longest of its texts"
        assert {len(batch) for batch, _ in epoch} <= {15, 16}
        assert sum(batch.numel() for batch, _ in epoch) < 1.15 * lengths.sum()
    first, again, other = ([batch[:, 0].tolist() for batch, _ in epoch] for epoch in epochs)
    assert first == again
    assert not {tuple(sorted(batch)) for batch in first} & {tuple(sorted(batch)) for batch in other}
    gathered = [(rows.shape, rows.index.tolist()) for rows, _ in texts.epoch(16, 0, Rows)]
    assert [shape for shape, _ in gathered] == [batch.shape for batch, _ in epochs[0]], "gathered elsewhere, the same"


def test_lengths_of_texts_come_with_their_sets(config):
    splits = load_splits(config("csv", text=["the film", "a very good film"] * 5, label=[0, 1] * 5), seed=0)
    assert set(splits.train.lengths) == {4, 6}, "with the marks of a text's begin and end"
    assert (splits.test.lengths == (splits.test.inputs != 0).sum(1)).all()
