"""The 1,797 handwritten digits that come with scikit-learn: 8x8 pixels, grey, one set."""

from __future__ import annotations

import numpy as np

from pipeline.config import DataConfig
from pipeline.data.sources.base import RawExamples, Source, array_chunks

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def _open(data: DataConfig) -> RawExamples:
    from sklearn.datasets import load_digits  # slow to import, and only wanted here

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    return RawExamples(array_chunks(rgb, digits.target.astype(np.int64), "digits"), None, _NAMES)


DIGITS = Source(needs=(), identity=lambda data: "scikit-learn's digits", open=_open, encoded=False)
