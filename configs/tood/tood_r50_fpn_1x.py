"""TOOD R-50 FPN, anchor-free, 12 epochs. Published box AP 42.4 (COCO val2017); not run here.

Run: train_net.py --config-file configs/tood/tood_r50_fpn_1x.py --num-gpus 8.
"""

from ..baselines.atss_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
from ..common.models.tood import model
