"""SALT-Net Res2Net-101 FPN with group norm, deformable res3 to res5 and head, 24 epochs, multi-scale.

Published box AP 51.1 (COCO val2017), probably this model's row; not run here.
Run: train_net.py --config-file configs/salt/salt_r2_101_fpn_dcnx_2x_ms.py --num-gpus 8.
"""

from ..common.models.salt import deform_further
from .salt_r2_101_fpn_dcn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

deform_further(model)
