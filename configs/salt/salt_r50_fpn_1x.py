"""SALT-Net R-50 FPN, 12 epochs. Published box AP 42.5 (COCO val2017); not run here.

Run: train_net.py --config-file configs/salt/salt_r50_fpn_1x.py --num-gpus 8.
"""

from ..baselines.gfl_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
from ..common.models.salt import model
