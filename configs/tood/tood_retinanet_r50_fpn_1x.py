"""RetinaNet R-50 FPN with TOOD's assigner and losses, 12 epochs.

An unpublished combination. No published AP; not run here.
"""

from ..baselines.retinanet_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train
from ..common.models.tood import task_aligned

model.criterion = task_aligned()
