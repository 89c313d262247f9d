"""TSD on Cascade R-CNN R-50 FPN, 21 epochs. Published box AP 42.0 (COCO val2017); not run here.

Run: train_net.py --config-file configs/tsd/tsd_cascade_r50_fpn_20e.py --num-gpus 8.
"""

from ..common.models.tsd_cascade_legacy import model
from ..common.schedules import coco_iterations
from .tsd_faster_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train

train.max_iter = coco_iterations(epochs=21, batch_size=train.reference_batch_size)
lr_multiplier.milestones = [17 / 21, 20 / 21]
