"""HTC X-101-64x4d FPN, 20 epochs. Published box AP 47.0, mask AP 41.4 (COCO val2017); not run here.

Run: train_net.py --config-file configs/htc/htc_x101_64x4d_fpn_20e.py --num-gpus 8.
"""

from .htc_x101_32x4d_fpn_20e import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.groups = 64
train.init_checkpoint = "imagenet://mmdet/resnext101_64x4d"
