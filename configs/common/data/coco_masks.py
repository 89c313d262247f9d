"""COCO 2017 with masks."""

from .coco import dataloader
from .targets import add_masks

add_masks(dataloader)
