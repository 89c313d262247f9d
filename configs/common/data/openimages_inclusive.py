"""OpenImages Challenge 2019 for detectors whose boxes name their first and last pixels."""

from .openimages import dataloader
from .targets import use_inclusive_boxes

# As published: the relative ends times the size are taken for the numbers of pixels.
dataloader.train.dataset.inclusive_ends = True
use_inclusive_boxes(dataloader)
