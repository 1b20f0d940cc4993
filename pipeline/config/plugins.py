"""Modules from outside of the package, which add lines to its tables (METHODS, BACKBONES, SOURCES, ...)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.yaml_text import plain_yaml
from pipeline.errors import ConfigError, quoted


def import_plugins(names: Sequence[str]) -> None:
    """Import the modules of `plugins`, each of which adds its lines to the tables as it is imported.

    They are looked for where Python looks, and in the working directory. A second call imports nothing again. Raises
    ConfigError.
    """
    if names and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # a plug-in may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ConfigError(
                f"plugins: {quoted(name)} cannot be imported ({reason}); install it or give the command in the folder "
                "that holds it"
            ) from error


def plugins_of(values: Any) -> list[str]:
    """The names under `plugins` in unchecked settings; none where that is no list of names, which validation tells."""
    names = values.get("plugins") if isinstance(values, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def import_plugins_of(settings: Path) -> None:
    """Import what the settings of a recorded run name, for commands that need nothing else of them.

    Without a readable file nothing is imported. Raises ConfigError.
    """
    try:
        values = plain_yaml(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, ConfigError):
        return
    import_plugins(plugins_of(values))
