"""Images: sources, the store of decoded images, splits, augmentation; and the Parquet tables of records.

Importing this package imports neither ray, which only `prepare` needs, and only where the store is not there yet, nor
torchvision, which `pipeline.data.augmentation` needs.
"""

from pipeline.data.images import ImageSet, Splits
from pipeline.data.preparation import prepare
from pipeline.data.sources import SOURCES
from pipeline.data.splits import load_splits
from pipeline.data.tables import read_table, write_table

__all__ = [
    "SOURCES",
    "ImageSet",
    "Splits",
    "load_splits",
    "prepare",
    "read_table",
    "write_table",
]
