"""Soups of which one thing differs from those of the soup stage: what three studies share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.records import VariantRecord
from pipeline.soup_requests import SoupRequest
from pipeline.studies.base import BuiltSoup

_USED = ("block_size", "outer_iterations", "inner_iterations")  # settings that records tell as they were used


@dataclass(frozen=True)
class Variant:
    """A soup to build: ``method`` with ``value`` for ``setting``; ``name`` tells it from all others of the run."""

    study: str
    method: str
    setting: str
    value: Any
    is_default: bool
    request: SoupRequest

    @property
    def name(self) -> str:
        """By which it is remembered, and its predictions are found."""
        return f"{self.study}/{self.method}/{self.setting}={_text(self.value)}"

    def record(self, built: BuiltSoup) -> VariantRecord:
        """Its row."""
        shared = built.record.model_dump(exclude={"gpu_hours"})
        # What was used, not what was asked for: a block has no more models than there are.
        used = shared[self.setting] if self.setting in _USED else None
        value = _text(self.value if used is None else used)
        own = {"method": self.method, "setting": self.setting, "value": value}
        return VariantRecord.model_validate(
            shared | own | {"is_default": self.is_default, "predictions": built.predictions}
        )


def requests_of(variants: Sequence[Variant]) -> dict[str, SoupRequest]:
    """What the variants ask for, by name."""
    return {variant.name: variant.request for variant in variants}


def rows_of(variants: Sequence[Variant], soups: Mapping[str, BuiltSoup]) -> list[VariantRecord]:
    """Their rows, in order."""
    return [variant.record(soups[variant.name]) for variant in variants]


def _text(value: Any) -> str:
    """As one writes it in the settings, in short."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
