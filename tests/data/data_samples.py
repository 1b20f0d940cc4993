"""Small images and settings for the tests of `pipeline.data`."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.config import DataConfig, Known
from pipeline.data import KINDS, SOURCES
from pipeline.metrics import METRICS


def data_config(**settings) -> DataConfig:
    needs = {name: (*KINDS[source.kind].needs, *source.needs) for name, source in SOURCES.items()}
    known = Known(needs, (), {}, {}, {}, {}, METRICS)
    return DataConfig.model_validate(settings, context=known)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def flat_image(value: int, size: tuple[int, int] = (6, 6)) -> np.ndarray:
    """An image of one colour that tells which image it is."""
    return np.full((*size, 3), (value, 255 - value, value // 2), dtype=np.uint8)


def write_parquet(path: Path, labels: list[int], images: list | None = None, **options) -> Path:
    """A Parquet file of images that are `flat_image(row)` unless given."""
    images = [encoded(flat_image(row)) for row in range(len(labels))] if images is None else images
    pq.write_table(pa.table({"image": images, "label": labels}), path, **options)
    return path


def write_folders(root: Path, images_of: dict[str, int], form: str = "PNG") -> Path:
    """A folder for each class with that many images, flat in the order of their names."""
    value = 0
    for name, count in sorted(images_of.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.{form.lower()}").write_bytes(encoded(flat_image(value), form))
            value += 1
    return root
