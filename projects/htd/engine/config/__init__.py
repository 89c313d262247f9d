"""From a config file, overrides and flags to the parts of a run."""

from htd.engine.config.files import config_text, load_config, save_config

__all__ = ["config_text", "load_config", "save_config"]
