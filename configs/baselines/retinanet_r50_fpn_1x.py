"""RetinaNet R-50 FPN, 12 epochs. Published box AP 36.5 (COCO val2017); not run here.

Run: train_net.py --config-file configs/baselines/retinanet_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.models.retinanet import model
from .atss_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
