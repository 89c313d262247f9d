"""COCO 2017 with masks and semantic maps drawn from them by tools/draw_semantic_maps.py."""

from .coco_masks import dataloader
from .targets import add_instance_maps

add_instance_maps(dataloader, "coco/instancemaps/train2017")
