"""FCOS R-50 FPN, 12 epochs. No published AP for torchvision's backbone; not run here."""

from ..common.models.fcos import model
from .atss_r50_fpn_1x import dataloader, lr_multiplier, optimizer, train
