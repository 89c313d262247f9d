"""SALT-Net Res2Net-101, deformable res3 to res5 and head, group norm in the FPN, 24 epochs, multi-scale.

Published box AP 51.1 (COCO val2017), the row that seems to be this model's; not run here.
"""

from ..common.models.salt import deform_further
from .salt_r2_101_fpn_dcn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

deform_further(model)
