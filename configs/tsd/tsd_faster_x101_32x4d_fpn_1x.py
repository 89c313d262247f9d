"""TSD on Faster R-CNN X-101-32x4d FPN, 14 epochs.

Follows the paper only, there are no published weights. Published box AP 43.5 (paper, COCO val2017); not run
here.
"""

from .tsd_faster_r101_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.groups = 32
model.backbone.bottom_up.width_per_group = 4
train.init_checkpoint = "imagenet://mmdet/resnext101_32x4d"
