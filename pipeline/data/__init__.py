"""Images: sources, the store of decoded images, splits, augmentation; and the Parquet tables of records.

Importing this package imports neither ray, which is needed to make a store and to stream from it alone, nor
torchvision, which `pipeline.data.augmentation` needs.
"""

from pipeline.data.images import ImageSet, Splits, TrainingImages
from pipeline.data.preparation import prepare
from pipeline.data.sources import SOURCES
from pipeline.data.splits import load_splits
from pipeline.data.streaming import StreamedImages
from pipeline.data.tables import read_table, write_table

__all__ = [
    "SOURCES",
    "ImageSet",
    "Splits",
    "StreamedImages",
    "TrainingImages",
    "load_splits",
    "prepare",
    "read_table",
    "write_table",
]
