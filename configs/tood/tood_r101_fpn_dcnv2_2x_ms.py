"""TOOD R-101 FPN, modulated deformable res3 to res5 and head, 24 epochs, multi-scale training.

Published box AP 49.3 (COCO val2017); not run here.
Run: train_net.py --config-file configs/tood/tood_r101_fpn_dcnv2_2x_ms.py --num-gpus 8.
"""

from .tood_r101_fpn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(deform_stages=["res3", "res4", "res5"], modulated=True)
model.head.towers.num_deformable = 2
