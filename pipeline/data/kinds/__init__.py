"""Kinds of input: a file per kind, and the table of their names."""

from pipeline.config import DataConfig
from pipeline.data.kinds.base import Form, Kind, Listed, ReaderModule
from pipeline.data.kinds.images import IMAGES
from pipeline.data.sources import SOURCES

KINDS: dict[str, Kind] = {"images": IMAGES}


def kind_of(data: DataConfig) -> Kind:
    """The kind of what the source of ``data`` holds."""
    return KINDS[SOURCES[data.source].kind]


__all__ = ["KINDS", "Form", "Kind", "Listed", "ReaderModule", "kind_of"]
