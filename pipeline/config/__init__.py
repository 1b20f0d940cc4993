"""Settings of a run: typed, documented where they are defined, validated once when the YAML file is loaded."""

from pipeline.config.base import (
    HIGHEST_SEED,
    Count,
    HasSettings,
    Known,
    MethodName,
    Once,
    Section,
    chosen,
    context,
    home,
    method_settings,
    nearest,
    nested_section,
    ray_address,
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
    StopConfig,
    config_type,
    section_name,
)
from pipeline.config.spaces import SPACES, Distribution, Space
from pipeline.config.yaml_text import plain_yaml

__all__ = [
    "HIGHEST_SEED",
    "SPACES",
    "Config",
    "ContrastiveConfig",
    "Count",
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
    "StopConfig",
    "chosen",
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
    "plain_yaml",
    "ray_address",
    "section_name",
]
