"""A page in the browser over a registry: what its sweeps cost and came to, while they run. It only reads."""

from pipeline.dashboard.page import make_app
from pipeline.dashboard.reader import Reader

__all__ = ["Reader", "make_app"]
