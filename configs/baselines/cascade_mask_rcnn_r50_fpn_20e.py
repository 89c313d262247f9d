"""Cascade Mask R-CNN R-50 FPN, 20 epochs. Published box AP 41.9, mask AP 36.5 (val2017); not run here.

Run: train_net.py --config-file configs/baselines/cascade_mask_rcnn_r50_fpn_20e.py --num-gpus 8.
"""

from ..common.schedules import coco_iterations, decay_20_epochs
from .cascade_mask_rcnn_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

lr_multiplier.milestones = decay_20_epochs
train.max_iter = coco_iterations(epochs=20, batch_size=train.reference_batch_size)
