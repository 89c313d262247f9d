"""GFL R-50 FPN, 12 epochs. Published box AP 40.2 (COCO val2017); not run here.

Run: train_net.py --config-file configs/baselines/gfl_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.models.gfl import model
from .atss_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
