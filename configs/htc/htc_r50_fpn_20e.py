"""HTC R-50 FPN, 20 epochs. Published box AP 43.3, mask AP 38.3 (COCO val2017); not run here.

Run: train_net.py --config-file configs/htc/htc_r50_fpn_20e.py --num-gpus 8.
"""

from ..common.schedules import coco_iterations, decay_20_epochs
from .htc_r50_fpn_1x import dataloader, lr_multiplier, model, optimizer, train

lr_multiplier.milestones = decay_20_epochs
train.max_iter = coco_iterations(epochs=20, batch_size=train.reference_batch_size)
