"""SALT-Net X-101-32x4d, deformable res3 to res5 and head, group norm in the FPN, 24 epochs, multi-scale.

Published box AP 49.7 (COCO val2017), the row that seems to be this model's; not run here.
"""

from ..common.models.salt import deform_further
from .salt_x101_32x4d_fpn_dcn_2x_ms import dataloader, lr_multiplier, model, optimizer, train

deform_further(model)
