"""HTD X-101-64x4d FPN, deformable, 24 epochs, multi-scale training, test scale (1600, 800).

No published AP and no published weights; not run here.
"""

from .htd_r101_fpn_dcn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.groups = 64
model.backbone.bottom_up.width_per_group = 4
train.init_checkpoint = "imagenet://mmdet/resnext101_64x4d"
dataloader.test.mapper.augmentations[0].max_size = 1600
