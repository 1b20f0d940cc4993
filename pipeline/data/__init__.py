"""Data: sources, kinds of input, the store of encoded examples, splits, augmentation.

Importing this package imports neither ray, which is needed to make a store and to stream from it alone, nor
torchvision, which `pipeline.data.augmentation` needs.
"""

from pipeline.data.examples import ExampleSet, Splits, TrainingExamples
from pipeline.data.kinds import KINDS, kind_of
from pipeline.data.preparation import prepare
from pipeline.data.sources import SOURCES
from pipeline.data.splits import load_splits, split_sizes
from pipeline.data.streaming import StreamedExamples

__all__ = [
    "KINDS",
    "SOURCES",
    "ExampleSet",
    "Splits",
    "StreamedExamples",
    "TrainingExamples",
    "kind_of",
    "load_splits",
    "prepare",
    "split_sizes",
]
