"""TSD on Faster R-CNN X-101-64x4d FPN, deformable, 34 epochs, multi-scale training and test.

Published box AP 49.2 (COCO val2017); not run here. At test four sizes, each also mirrored;
``test_time_augmentation=null`` tests at one.
Run: train_net.py --config-file configs/tsd/tsd_faster_x101_64x4d_fpn_dcn_ms.py --num-gpus 8.
"""

from ..common.schedules import coco_iterations
from ..common.test_time import test_time_augmentation
from .tsd_faster_x101_32x4d_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.groups = 64
model.backbone.bottom_up.deform_stages = ["res3", "res4", "res5"]
dataloader.train.mapper.augmentations[0].update(
    short_edge_length=[400, 1400], max_size=1600, sample_style="range"
)
lr_multiplier.milestones = [24 / 34, 33 / 34]
train.max_iter = coco_iterations(epochs=34, batch_size=train.reference_batch_size)
train.init_checkpoint = "imagenet://mmdet/resnext101_64x4d"
