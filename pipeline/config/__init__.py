"""Settings of a run: typed, documented where they are defined, validated once when the YAML file is loaded."""

from pipeline.config.base import (
    Known,
    MethodName,
    Once,
    Section,
    context,
    home,
    method_settings,
    nearest,
    nested_section,
)
from pipeline.config.load import dump_config, load_config
from pipeline.config.sections import Config, ContrastiveConfig, DataConfig, ModelConfig, SearchConfig, SoupConfig
from pipeline.config.spaces import SPACES, Distribution, Space

__all__ = [
    "SPACES",
    "Config",
    "ContrastiveConfig",
    "DataConfig",
    "Distribution",
    "Known",
    "MethodName",
    "ModelConfig",
    "Once",
    "SearchConfig",
    "Section",
    "SoupConfig",
    "Space",
    "context",
    "dump_config",
    "home",
    "load_config",
    "method_settings",
    "nearest",
    "nested_section",
]
