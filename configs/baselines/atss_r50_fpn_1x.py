"""ATSS R-50 FPN, 12 epochs. Published box AP 39.4 (COCO val2017); not run here.

Run: train_net.py --config-file configs/baselines/atss_r50_fpn_1x.py --num-gpus 8.
"""

from ..common.data.coco import dataloader
from ..common.models.atss import model
from ..common.optim import SGD as optimizer
from ..common.schedules import coco_iterations
from ..common.schedules import step as lr_multiplier
from ..common.train import train

optimizer.lr = 0.01
train.init_checkpoint = "imagenet://torchvision/resnet50"
train.max_iter = coco_iterations(epochs=12, batch_size=train.reference_batch_size)
