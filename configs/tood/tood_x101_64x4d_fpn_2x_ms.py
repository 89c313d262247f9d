"""TOOD X-101-64x4d FPN, 24 epochs, multi-scale training.

Published box AP 47.6 (COCO val2017); not run here.
Run: train_net.py --config-file configs/tood/tood_x101_64x4d_fpn_2x_ms.py --num-gpus 8.
"""

from .tood_r101_fpn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(groups=64, width_per_group=4)
train.init_checkpoint = "imagenet://mmdet/resnext101_64x4d"
