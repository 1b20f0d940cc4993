"""From a text, or two, to the token ids that models see.

A served soup has a copy of this file (see `ReaderModule`), so that it reads texts as they were read for training: it
imports nothing of this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer
from torch import nn

REQUIREMENTS: tuple[str, ...] = ("tokenizers",)
NAMES = ("text", "texts")

# A token is stored as its id + 1, so that 0 is padding whatever the tokenizer; the segment that it is in, by which
# some models tell the second text from the first, stands in the bits above its id.
SEGMENT_BIT = 24


class TextEncoder:
    """``length`` numbers, int32, for a text or two; what is longer is cut off where the tokenizer does.

    ``serialized`` is the tokenizer as its library writes it: ``tokenizer.json``.
    """

    def __init__(self, serialized: str, length: int) -> None:
        self.serialized, self.length = serialized, length
        self._whole, self._cut = Tokenizer.from_str(serialized), Tokenizer.from_str(serialized)
        for tokenizer in (self._whole, self._cut):
            tokenizer.no_padding()
            tokenizer.no_truncation()
        self._cut.enable_truncation(length)  # of two texts the longer one, token by token

    def __reduce__(self) -> tuple[type[TextEncoder], tuple[str, int]]:
        return TextEncoder, (self.serialized, self.length)

    def __call__(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int32], int]:
        """The row of one text or two, and how many tokens it has no room for."""
        first, second = texts[0], texts[1] if len(texts) > 1 else None
        encoded: Encoding = self._whole.encode(first, second)
        if (left_out := len(encoded.ids) - self.length) > 0:
            encoded = self._cut.encode(first, second)
        ids, segments = (np.array(values, dtype=np.int32) for values in (encoded.ids, encoded.type_ids))
        row = np.zeros(self.length, dtype=np.int32)
        row[: len(ids)] = ids + 1 + (segments << SEGMENT_BIT)
        return row, max(0, left_out)


def prepare(inputs: Mapping[str, Any]) -> nn.Module:
    """Towers take the rows as they are; see `ReaderModule`."""
    return nn.Identity()


def columns(inputs: Mapping[str, Any]) -> dict[str, str]:
    """What a served soup is asked with: ``text``, and ``text_pair`` where the model was trained on two."""
    return dict.fromkeys(("text", "text_pair") if inputs["pairs"] else ("text",), "string")


def example(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Texts of one sentence."""
    return dict.fromkeys(columns(inputs), "It was the best of times.")


class Reader:
    """From texts to a row; see `ReaderModule`."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.columns = list(columns(inputs))
        self.encode = TextEncoder(inputs["tokenizer"], inputs["max_length"])

    def __call__(self, values: Mapping[str, Any]) -> npt.NDArray[np.int32]:
        """What the network was trained on."""
        texts = tuple(values[column] for column in self.columns)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"cannot be read; give {' and '.join(self.columns)} as text")
        return self.encode(texts)[0]
