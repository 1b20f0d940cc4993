"""A Ray-orchestrated pipeline that turns a fine-tuning sweep into one better model."""

__version__ = "0.1.0"
