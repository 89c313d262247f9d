"""TSD on Faster R-CNN R-50 FPN, 14 epochs, with Detectron2's boxes. No published AP; not run here.

For new training: boxes are continuous and RoI features aligned, so published weights do not fit.
Run: train_net.py --config-file configs/tsd/tsd_faster_r50_fpn_1x_continuous.py --num-gpus 8.
"""

from ..common.data.coco import dataloader
from ..common.models.tsd_faster import model
from .tsd_faster_r50_fpn_1x import lr_multiplier, optimizer, train

dataloader.train.total_batch_size = train.reference_batch_size
