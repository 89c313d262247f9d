"""SALT-Net X-101-32x4d FPN, deformable res4 and res5, 24 epochs, multi-scale training.

Published box AP 49.5 (COCO val2017), probably this model's row; not run here.
Run: train_net.py --config-file configs/salt/salt_x101_32x4d_fpn_dcn_2x_ms.py --num-gpus 8.
"""

from .salt_r50_fpn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(depth=101, groups=32, width_per_group=4, deform_stages=["res4", "res5"])
train.init_checkpoint = "imagenet://mmdet/resnext101_32x4d"
