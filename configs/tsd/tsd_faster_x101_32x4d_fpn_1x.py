"""TSD on Faster R-CNN X-101-32x4d FPN, 14 epochs. No published weights.

Published box AP 43.5 (paper, COCO val2017); not run here.
Run: train_net.py --config-file configs/tsd/tsd_faster_x101_32x4d_fpn_1x.py --num-gpus 8.
"""

from .tsd_faster_r101_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.groups = 32
model.backbone.bottom_up.width_per_group = 4
train.init_checkpoint = "imagenet://mmdet/resnext101_32x4d"
