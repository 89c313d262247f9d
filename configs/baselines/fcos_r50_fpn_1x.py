"""FCOS R-50 FPN, 12 epochs. No published AP for torchvision's backbone; not run here.

Run: train_net.py --config-file configs/baselines/fcos_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.models.fcos import model
from .atss_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
