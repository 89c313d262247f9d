"""RetinaNet R-50 FPN with TOOD's assigner and losses, 12 epochs.

The combination is not published. No published AP; not run here.
Run: train_net.py --config-file configs/tood/tood_retinanet_r50_fpn_1x.py --num-gpus 8.
"""

from ..baselines.retinanet_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train
from ..common.models.tood import task_aligned

model.criterion = task_aligned()
