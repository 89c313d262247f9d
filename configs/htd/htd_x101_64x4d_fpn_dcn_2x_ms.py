"""HTD X-101-64x4d FPN, deformable res3 to res5, 24 epochs, multi-scale training, test at (1600, 800).

No published AP and no published weights; not run here.
Run: train_net.py --config-file configs/htd/htd_x101_64x4d_fpn_dcn_2x_ms.py --num-gpus 6.
"""

from .htd_r101_fpn_dcn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.groups = 64
model.backbone.bottom_up.width_per_group = 4
train.init_checkpoint = "imagenet://mmdet/resnext101_64x4d"
dataloader.test.mapper.augmentations[0].max_size = 1600
