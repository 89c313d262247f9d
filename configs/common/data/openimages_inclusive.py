"""OpenImages Challenge 2019 for detectors whose boxes name their first and last pixels."""

from detectron2.config import LazyCall as L

from htd.data import InclusiveResizeCV2

from .openimages import dataloader
from .targets import use_inclusive_boxes

dataloader.train.mapper.augmentations[0] = L(InclusiveResizeCV2)(short_edge_length=800, max_size=1024)
# As published: the relative ends times the size are taken for the numbers of pixels.
dataloader.train.dataset.inclusive_ends = True
use_inclusive_boxes(dataloader)
