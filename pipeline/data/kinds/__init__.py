"""Kinds of input: a file per kind, and the table of their names."""

from pipeline.config import DataConfig
from pipeline.data.kinds.base import Encoder, Form, Kind, Listed, ReaderModule
from pipeline.data.kinds.images import IMAGES
from pipeline.data.kinds.text import TEXT
from pipeline.data.sources import SOURCES

KINDS: dict[str, Kind] = {"images": IMAGES, "text": TEXT}


def kind_of(data: DataConfig) -> Kind:
    """The kind of what the source of ``data`` holds."""
    return KINDS[SOURCES[data.source].kind]


__all__ = ["KINDS", "Encoder", "Form", "Kind", "Listed", "ReaderModule", "kind_of"]
