"""TOOD R-50 FPN, 24 epochs, multi-scale training. Published box AP 44.5 (COCO val2017); not run here.

Run: train_net.py --config-file configs/tood/tood_r50_fpn_2x_ms.py --num-gpus 8.
"""

from ..common.schedules import coco_iterations
from .tood_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

dataloader.train.mapper.augmentations[0].update(short_edge_length=[480, 800], sample_style="range")
train.max_iter = coco_iterations(epochs=24, batch_size=train.reference_batch_size)
