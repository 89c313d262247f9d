"""COCO 2017 with masks and COCO-Stuff's semantic maps (stuffthingmaps_trainval2017.zip)."""

from .coco_masks import dataloader
from .targets import add_stuff_maps

add_stuff_maps(dataloader, "coco/stuffthingmaps/train2017")
