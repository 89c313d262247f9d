"""The leaves under configs/, and their models in full size."""

from functools import cache
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig

FOLDERS = ("htd", "baselines", "htc", "tsd", "tood", "salt", "demo")
LEAVES = sorted(str(path) for folder in FOLDERS for path in Path("configs", folder).glob("*.py"))


@cache
def config_of(leaf: str) -> DictConfig:
    """Return a leaf's config, which is not to be changed."""
    return LazyConfig.load(leaf)


@cache
def full_size(leaf: str) -> tuple[DictConfig, torch.nn.Module]:
    """Return a leaf and its model without weights; neither is to be changed."""
    cfg = config_of(leaf)
    with torch.device("meta"):
        return cfg, instantiate(cfg.model)
