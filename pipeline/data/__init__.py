"""Images: sources, the store of decoded images, splits, augmentation; and the Parquet tables of records.

Importing this package does not import ray, which only `prepare` needs, and only where the store is not there yet.
"""

from pipeline.data.augmentation import augment, mixup
from pipeline.data.images import ImageSet, Splits
from pipeline.data.preparation import prepare
from pipeline.data.sources import SOURCES
from pipeline.data.splits import load_splits
from pipeline.data.tables import read_table, write_table

__all__ = [
    "SOURCES",
    "ImageSet",
    "Splits",
    "augment",
    "load_splits",
    "mixup",
    "prepare",
    "read_table",
    "write_table",
]
