"""SALT-Net R-50 FPN, 24 epochs, multi-scale training. Published box AP 45.8 (COCO val2017); not run here.

Run: train_net.py --config-file configs/salt/salt_r50_fpn_2x_ms.py --num-gpus 8.
"""

from ..common.schedules import coco_iterations
from .salt_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations[0].update(short_edge_length=[480, 960], sample_style="range")
train.max_iter = coco_iterations(epochs=24, batch_size=train.reference_batch_size)
