"""SALT-Net R-50 FPN, 12 epochs. Published box AP 42.5 (COCO val2017); not run here."""

from ..baselines.gfl_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
from ..common.models.salt import model
