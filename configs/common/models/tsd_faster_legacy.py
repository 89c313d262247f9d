"""TSD on Faster R-CNN, ResNet-50, FPN, with the conventions of the published weights."""

from .legacy import use_inclusive_boxes, use_legacy_pooling
from .tsd_faster import model

use_inclusive_boxes(model)
use_legacy_pooling(model)
