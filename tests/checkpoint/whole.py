"""Models of the configs and the key lists of published files, without values where none are needed."""

from functools import lru_cache

import torch
from detectron2.config import LazyConfig, instantiate
from torch import nn

from tests import golden


def build(config: str, *overrides: str) -> nn.Module:
    """Return the model of a config, as in ``htd/htd_r50_fpn_1x``, on the meta device."""
    leaf = LazyConfig.load(f"configs/{config}.py")
    with torch.device("meta"):
        return instantiate(LazyConfig.apply_overrides(leaf, list(overrides)).model)


model_of = lru_cache(build)


def file_of(system: str, manifest: str, device: str = "meta") -> dict[str, torch.Tensor]:
    """Return a tensor for each name of a published file."""
    entries = golden.manifest(system, manifest)["entries"]
    return {key: torch.zeros(shape, device=device) for key, shape in entries.items()}
