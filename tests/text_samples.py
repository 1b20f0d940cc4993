"""A tokenizer with a vocabulary made on the spot, and tables of small texts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "bad", "film", "the", "a", "very", "so", "not", "play", "##ed", "##s", ".", "12"]


def write_tokenizer(folder: Path, words=WORDS) -> Path:
    """The folder of a BERT tokenizer of these words, as transformers writes it."""
    from transformers import BertTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    BertTokenizerFast(vocab=vocabulary, do_lower_case=True).save_pretrained(folder)
    return folder


def write_encoder(folder: Path) -> Path:
    """The folder of a tiny BERT with random weights, and of the tokenizer of `WORDS`."""
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(SPECIAL) + len(WORDS), **sizes)).save_pretrained(folder)
    return write_tokenizer(folder)


def write_table(path: Path, **columns) -> Path:
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".csv":
        pc_csv.write_csv(table, path)
    else:  # as GLUE's are, without quotes
        rows = [columns, *zip(*columns.values(), strict=True)]
        path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def texts(count, seed):
    """Five words each; one of them is good or bad, and the class says which."""
    generator = np.random.default_rng(seed)
    words = generator.choice(["film", "the", "a", "very", "so", "play"], (count, 5)).astype("<U5")
    labels = generator.integers(2, size=count)
    words[np.arange(count), generator.integers(5, size=count)] = np.where(labels, "good", "bad")
    return {"text": [" ".join(row) for row in words.tolist()], "label": labels.tolist()}
