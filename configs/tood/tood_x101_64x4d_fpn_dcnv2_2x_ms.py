"""TOOD X-101-64x4d FPN, modulated deformable res4, res5 and head, 24 epochs, multi-scale training.

Published box AP 50.5 (COCO val2017), by the authors only; not run here.
Run: train_net.py --config-file configs/tood/tood_x101_64x4d_fpn_dcnv2_2x_ms.py --num-gpus 8.
"""

from .tood_x101_64x4d_fpn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up.update(deform_stages=["res4", "res5"], modulated=True)
model.head.towers.num_deformable = 2
