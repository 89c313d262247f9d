"""From a config file, overrides and flags to the parts of a run."""

from htd.engine.config.builder import build
from htd.engine.config.files import config_text, load_config, save_config

__all__ = ["build", "config_text", "load_config", "save_config"]
