"""Settings of a run: typed, documented where they are defined, validated once when the YAML file is loaded."""

from pipeline.config.base import (
    HasSettings,
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
from pipeline.config.plugins import import_plugins, import_plugins_of
from pipeline.config.sections import (
    Config,
    ContrastiveConfig,
    DataConfig,
    ModelConfig,
    SearchConfig,
    SoupConfig,
    config_type,
    section_name,
)
from pipeline.config.spaces import SPACES, Distribution, Space

__all__ = [
    "SPACES",
    "Config",
    "ContrastiveConfig",
    "DataConfig",
    "Distribution",
    "HasSettings",
    "Known",
    "MethodName",
    "ModelConfig",
    "Once",
    "SearchConfig",
    "Section",
    "SoupConfig",
    "Space",
    "config_type",
    "context",
    "dump_config",
    "home",
    "import_plugins",
    "import_plugins_of",
    "load_config",
    "method_settings",
    "nearest",
    "nested_section",
    "section_name",
]
