"""COCO 2017 for detectors whose boxes name their first and last pixels: resized and clipped as such."""

from detectron2.config import LazyCall as L

from htd.data import InclusiveResizeCV2

from .coco import dataloader
from .targets import use_inclusive_boxes

dataloader.train.mapper.augmentations[0] = L(InclusiveResizeCV2)(short_edge_length=800, max_size=1333)
use_inclusive_boxes(dataloader)
