"""TSD on Faster R-CNN R-50 FPN, 14 epochs, with Detectron2's boxes. No published AP; not run here.

The choice for new training: boxes are continuous, RoI features aligned. Published weights do not fit.
"""

from ..common.data.coco import dataloader
from ..common.models.tsd_faster import model
from .tsd_faster_r50_fpn_1x import lr_multiplier, optimizer, train

dataloader.train.total_batch_size = train.reference_batch_size
