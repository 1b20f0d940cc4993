"""A data source: striped images, the classes are the directions of the stripes."""

import numpy as np

from pipeline.data.sources import RawExamples, Source, array_chunks

NAMES = ("across", "down", "slanted")


def images_of(count, seed):
    """uint8 (N, 12, 12, 3) with noise, and their labels."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(len(NAMES), size=count)
    rows, columns = np.mgrid[:12, :12]
    along = np.stack([rows, columns, rows + columns])[labels]
    phase = generator.integers(4, size=count)[:, None, None]
    grey = 128 + 60 * np.where((along + phase) // 2 % 2, 1, -1) + generator.normal(0, 150, along.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=-1), labels.astype(np.int64)


def open_stripes(data):
    return RawExamples(array_chunks(*images_of(400, 0), "stripes"), array_chunks(*images_of(100, 1), "stripes"), NAMES)


STRIPES = Source(needs=(), identity=lambda data: "stripes, version 1", open=open_stripes, encoded=False)
