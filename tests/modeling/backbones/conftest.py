"""What the tests of the backbones share."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig

CONFIG = Path(__file__).parents[3] / "configs" / "common" / "models" / "resnet_fpn.py"

# One block a stage and narrow: the same parts as the large networks, at a hundredth of the cost.
SMALL = {"stem_channels": 8, "width_per_group": 8, "num_blocks": (1, 1, 1, 1)}
DEFORMABLE = ("res3", "res4", "res5")
PARTS = ("stem", "res2", "res3", "res4", "res5")


def config():
    """Return the shared config of backbone and pyramid."""
    return LazyConfig.load(str(CONFIG)).backbone


def pictures(height, width, count=2):
    """Return random images."""
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def picture():
    """A small batch of images."""
    return pictures(64, 96, 1)
