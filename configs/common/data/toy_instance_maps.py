"""The toy data with masks and semantic maps drawn from them by tools/draw_semantic_maps.py."""

from .targets import add_instance_maps
from .toy_masks import dataloader

add_instance_maps(dataloader, "toy/instance_maps_train")
