"""HTC X-101-32x4d FPN, 20 epochs. Published box AP 46.1, mask AP 40.5 (COCO val2017); not run here.

Run: train_net.py --config-file configs/htc/htc_x101_32x4d_fpn_20e.py --num-gpus 8.
"""

from .htc_r101_fpn_20e import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.groups = 32
model.backbone.bottom_up.width_per_group = 4
train.init_checkpoint = "imagenet://mmdet/resnext101_32x4d"
