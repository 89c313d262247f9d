"""What the tests of the region proposal network share."""

from pathlib import Path

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.structures import Boxes, ImageList, Instances

from htd.checkpoint.convert import convert
from tests.recorded import published_weights

CONFIG = Path(__file__).parents[3] / "configs" / "common" / "models" / "htd.py"


def config():
    """Return the config of the network in HTD."""
    return LazyConfig.load(str(CONFIG)).model.proposal_generator


def network(cfg, device="cpu"):
    """Build a network with the reference weights on a device."""
    rpn = instantiate(cfg)
    weights, _ = convert(published_weights("htd", "manifest_r50", "rpn_head."), rpn, source="htd")
    rpn.load_state_dict(weights)
    return rpn.to(device)


def image_list(sizes, batch_size=(64, 96), device="cpu"):
    """Return images of the given unpadded sizes; their values are not read."""
    return ImageList(torch.zeros(len(sizes), 3, *batch_size, device=device), [tuple(size) for size in sizes])


def targets(boxes, sizes, device="cpu"):
    """Return the ground truth of each image."""
    return [Instances(tuple(s), gt_boxes=Boxes(b.to(device))) for b, s in zip(boxes, sizes, strict=True)]


@pytest.fixture(scope="module")
def rpn():
    """A network with the reference weights."""
    return network(config())
