"""Reduced models of TSD's leaves, and RoIs of all levels for their heads."""

from __future__ import annotations

import torch
from detectron2.config import LazyConfig

from htd.modeling.cascade import RoIContext, RoIs
from tests.boxes import random_boxes
from tests.configs.reduced import build
from tests.modeling.htc.small import heads_inputs, randomise

FASTER = "configs/tsd/tsd_faster_r50_fpn_1x.py"
CONTINUOUS = "configs/tsd/tsd_faster_r50_fpn_1x_continuous.py"
MASK = "configs/tsd/tsd_mask_r50_fpn_1x.py"
CASCADE = "configs/tsd/tsd_cascade_r50_fpn_20e.py"
ON_HTC = "configs/tsd/tsd_htc_r50_fpn_1x.py"
ON_HTD = "configs/tsd/tsd_htd_r50_fpn_1x.py"


def block(name: str):
    """Return a function of configs/common/models/tsd.py."""
    return LazyConfig.load("configs/common/models/tsd.py", name)


def first_head(leaf: str, counts=(9, 6)) -> tuple[torch.nn.Module, RoIContext, RoIs]:
    """Return the head of the first stage, in training mode, and RoIs of two images and all levels."""
    heads = randomise(build(leaf).roi_heads).train()
    images, maps, *_ = heads_inputs(counts)
    with torch.no_grad():
        context, _ = heads.make_context(images.image_sizes, maps)
    generator = torch.Generator().manual_seed(2)
    boxes = [random_boxes(generator, count, 64, 96) for count in counts]
    for each in boxes:
        # From level 0 to level 3, which begins at 448 pixels.
        each[::3] *= 12
        each[1::3] *= 5
    return heads.stages[0].head, context, context.rois(boxes)
