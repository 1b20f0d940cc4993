"""Where data come from: a file per source, and the table of their names."""

from pipeline.data.sources.base import Chunk, RawExample, RawExamples, Source, array_chunks
from pipeline.data.sources.cifar import CIFAR10, CIFAR100
from pipeline.data.sources.digits import DIGITS
from pipeline.data.sources.image_folder import IMAGE_FOLDER
from pipeline.data.sources.imagenet import IMAGENET
from pipeline.data.sources.parquet import PARQUET
from pipeline.data.sources.text_table import TEXT_TABLE

SOURCES: dict[str, Source] = {
    "digits": DIGITS,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "image_folder": IMAGE_FOLDER,
    "imagenet": IMAGENET,
    "parquet": PARQUET,
    "text_table": TEXT_TABLE,
}

__all__ = ["SOURCES", "Chunk", "RawExample", "RawExamples", "Source", "array_chunks"]
