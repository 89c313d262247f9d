"""The toy data with masks and its semantic maps in the manner of COCO-Stuff."""

from .targets import add_stuff_maps
from .toy_masks import dataloader

add_stuff_maps(dataloader, "toy/stuff_train")
