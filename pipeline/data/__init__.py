"""Images: sources, the store of decoded images, splits, augmentation.

Importing this package imports neither ray, which is needed to make a store and to stream from it alone, nor
torchvision, which `pipeline.data.augmentation` needs.
"""

from pipeline.data.images import ImageSet, Splits, TrainingImages
from pipeline.data.preparation import prepare
from pipeline.data.sources import SOURCES
from pipeline.data.splits import load_splits, split_sizes
from pipeline.data.streaming import StreamedImages

__all__ = [
    "SOURCES",
    "ImageSet",
    "Splits",
    "StreamedImages",
    "TrainingImages",
    "load_splits",
    "prepare",
    "split_sizes",
]
