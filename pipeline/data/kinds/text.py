"""Texts, one or two an example: token ids, int32 (T,), 0 is padding (see `pipeline.data.tokens`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.config import DataConfig
from pipeline.data import tokens
from pipeline.data.kinds.base import Encoder, Form, Kind, Listed
from pipeline.data.sources import text_table
from pipeline.data.sources.base import RawExamples, located
from pipeline.errors import DataError, first_sentence
from pipeline.records import Hyperparameters, ShownExample

_SHOWN = 400  # letters of a text for people to look at
_MAX_LENGTH = 128  # of the model-soups paper, App. J.5


def _length(data: DataConfig) -> int:
    return data.max_length or _MAX_LENGTH


def serialized_tokenizer(name: str) -> str:
    """The tokenizer of a folder, or of a name, as its library writes it (``tokenizer.json``); raises DataError."""
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise DataError(f"data.tokenizer: {name} is no folder; give the folder of a tokenizer, or its name")
    files = sorted(Path(name).iterdir()) if Path(name).is_absolute() else []
    stats = [(file.name, file.stat()) for file in files if file.is_file()]
    return _serialized(name, tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats))


@lru_cache(maxsize=4)  # of large vocabularies it takes seconds
def _serialized(name: str, files: tuple[tuple[str, int, int], ...]) -> str:
    """As `serialized_tokenizer`, of a folder whose ``files`` are as they are (name, size, time), or of another name."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # slow to import
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, local_files_only=Path(name).is_absolute(), trust_remote_code=False, use_fast=True
        )
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ValueError("it has no tokenizer.json")
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # of many kinds
        raise DataError(
            f"data.tokenizer: {name} cannot be loaded ({first_sentence(error)}); give a folder with tokenizer.json, or "
            "the name of one that can be downloaded"
        ) from error
    backend.no_padding()
    backend.no_truncation()
    return str(backend.to_str())


def _tokenizer(data: DataConfig) -> str:
    return serialized_tokenizer(str(data.tokenizer))


def _inputs(data: DataConfig) -> dict[str, Any]:
    pairs = data.text_pair_column is not None
    return {"max_length": _length(data), "pairs": pairs, "tokenizer": _tokenizer(data)}


def _encoder(data: DataConfig) -> Encoder:
    _check_room(data)
    return tokens.TextEncoder(_tokenizer(data), _length(data))


def _check_room(data: DataConfig) -> None:
    """Raises DataError where what the tokenizer puts around texts leaves no room for them."""
    marks = Tokenizer.from_str(_tokenizer(data)).num_special_tokens_to_add(data.text_pair_column is not None)
    if _length(data) <= marks:
        raise DataError(
            f"data.max_length: {_length(data)} leaves no room beside the {marks} tokens that data.tokenizer puts "
            "around texts; raise it"
        )


def _key(data: DataConfig) -> list[Any]:
    return [_length(data), hashlib.sha256(_tokenizer(data).encode()).hexdigest()]


def _draw(shape: torch.Size, hyper: Hyperparameters, generator: torch.Generator) -> tuple[()]:
    return ()


def _batch(texts: Tensor, targets: Tensor, hyper: Hyperparameters, draws: tuple[()]) -> tuple[Tensor, Tensor]:
    return texts, targets


def _probes(data: DataConfig) -> list[tuple[npt.NDArray[np.int32], str]]:
    """A text of the last token of the vocabulary alone, and some as long as they may be."""
    _check_room(data)
    size = 1 + max(Tokenizer.from_str(_tokenizer(data)).get_vocab().values())
    return [
        (
            np.array([size], dtype=np.int32),  # an id and 1
            f"data.tokenizer: its {size} tokens do not fit the vocabulary of the model ({{reason}}); take the "
            "tokenizer that the model was made with",
        ),
        *(
            (
                np.full(_length(data), token, dtype=np.int32),
                f"data.max_length: the model takes no texts of {_length(data)} tokens ({{reason}}); lower it",
            )
            for token in (1, 2)  # one of them may be padding, whose places some models do not count
        ),
    ]


def _shift(data: DataConfig, name: str, folder_names: Sequence[str] | None) -> Listed:
    setting, names = f"shifts.{name}", None if folder_names is None else tuple(folder_names)
    paths = located(data.shifts[name], setting)

    def open_shift() -> RawExamples:
        chunks, notes = text_table.chunks(data, paths, names, setting)
        return RawExamples([], chunks, names, notes=tuple(notes))

    return Listed(lambda: "\n".join([text_table.identity(data, paths, setting), *(names or ())]), open_shift)


def _show(data: DataConfig, texts: npt.NDArray[np.int32]) -> list[ShownExample]:
    tokenizer = Tokenizer.from_str(_tokenizer(data))
    return [ShownExample("text/plain", _as_read(tokenizer, row[row > 0])) for row in texts]


def _as_read(tokenizer: Tokenizer, tokens_of_text: npt.NDArray[np.int32]) -> str:
    """A row without its padding as text again, as the tokenizer has read it; two texts with a bar between them."""
    ids, segments = tokens_of_text % (1 << tokens.SEGMENT_BIT) - 1, tokens_of_text >> tokens.SEGMENT_BIT
    text = " | ".join(tokenizer.decode(ids[segments == segment].tolist()) for segment in np.unique(segments))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


TEXT = Kind(
    singular=tokens.NAMES[0],
    plural=tokens.NAMES[1],
    contents="tokens",
    needs=("tokenizer",),
    form=lambda data: Form("text", (_length(data),), "int32"),
    encoder=_encoder,
    accepted=lambda data: "texts, none of them missing",
    key=_key,
    version=1,
    draw=_draw,
    batch=_batch,
    inputs=_inputs,
    reader=tokens,
    probes=_probes,
    shift=_shift,
    cut_by="data.max_length",
    meaningless=("augmentation", "randaugment_m", "randaugment_n", "mixup", "cutmix"),
    space="text",
    lengths=lambda texts: np.maximum(1, np.count_nonzero(texts, axis=1)),  # of an empty text too
    show=_show,
)
