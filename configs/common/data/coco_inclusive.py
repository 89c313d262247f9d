"""COCO 2017 for detectors whose boxes name their first and last pixels: resized and clipped as such."""

from .coco import dataloader
from .targets import use_inclusive_boxes

use_inclusive_boxes(dataloader)
